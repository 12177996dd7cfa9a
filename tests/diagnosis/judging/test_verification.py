"""Cures on fresh seeds: what is significant, what matters, and how many seeds that takes."""

import math
from typing import Any

import pytest

from thalweg.diagnosis.changes import changes_for
from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.judging.candidates import Candidate
from thalweg.diagnosis.judging.clock import Clock
from thalweg.diagnosis.judging.verification import RANK_ALPHA, Verifier, compared, rank_sum_level, scores
from thalweg.diagnosis.run_record import RunRecord

CANDIDATE = Candidate(Clue("lr_too_low", "certain"), changes_for("lr_too_low", None)[0])


def record(seed: int, final: float) -> RunRecord:
    if math.isinf(final):
        return RunRecord("", seed, (), ((0, 0.1),), 0.1, None, False, ending="diverged")
    return RunRecord("", seed, (), ((0, 0.1), (9, final), (10, final)), 0.1, 0.1, False)


def records(*finals: float) -> list[RunRecord]:
    return [record(seed, final) for seed, final in enumerate(finals, 1)]


def test_a_cure_that_holds() -> None:
    result = compared(CANDIDATE, records(0.2, 0.3, 0.25), records(0.9, 0.92, 0.88), 0.05)
    assert result.holds
    assert result.difference == pytest.approx(0.65)
    # t(0.975, 2) = 4.3027; the differences are 0.70, 0.62, 0.63
    error = 4.3027 * math.sqrt((0.05**2 + 0.03**2 + 0.02**2) / 2 / 3)
    assert (result.low, result.high) == pytest.approx((0.65 - error, 0.65 + error), abs=1e-4)
    assert result.gain == pytest.approx(0.65 / 0.8, rel=0.03)


def test_an_improvement_on_two_of_three_seeds_is_not_significant() -> None:
    result = compared(CANDIDATE, records(0.2, 0.9, 0.2), records(0.9, 0.88, 0.9), 0.05)
    assert result.gain > 0.5
    assert not result.holds


def test_an_improvement_that_does_not_matter_is_no_cure() -> None:
    result = compared(CANDIDATE, records(0.900, 0.880, 0.890), records(0.920, 0.901, 0.909), 0.05)
    assert result.low > 0
    assert not result.holds


def test_a_cure_that_makes_it_worse() -> None:
    assert not compared(CANDIDATE, records(0.9, 0.92, 0.9), records(0.2, 0.3, 0.2), 0.05).holds


def test_a_cure_of_a_training_that_fails_on_some_seeds_only_holds_by_ranks() -> None:
    """All five are better after it, though the mean of what they gain is not shown to be above zero."""
    before, after = records(0.90, -math.inf, 0.89, -math.inf, 0.94), records(0.966, 0.972, 0.970, 0.964, 0.970)
    assert not compared(CANDIDATE, before, after, 0.02).holds
    assert compared(CANDIDATE, before, after, 0.02, RANK_ALPHA).holds
    assert not compared(CANDIDATE, before, records(0.966, 0.972, 0.93, 0.964, 0.91), 0.02, RANK_ALPHA).holds


@pytest.mark.parametrize(
    ("before", "after", "level"),
    [
        ([1, 2, 3], [4, 5, 6], 1 / 20),
        ([1, 2, 3, 4, 6], [5, 7, 8, 9, 10], 2 / 252),
        ([1, 2, 3, 4, 7], [5, 6, 8, 9, 10], 4 / 252),  # sums of ranks of 38 and above
        ([4, 5, 6], [1, 2, 3], 1.0),
        ([1, 1], [1, 2], 1 / 2),  # half of the six pairs have the 2
    ],
)
def test_levels_of_sums_of_ranks(before: list[float], after: list[float], level: float) -> None:
    """Counted by hand, as in the tables of Wilcoxon (1945)."""
    assert rank_sum_level(before, after) == pytest.approx(level)


def test_runs_that_diverge_count_as_blind_models() -> None:
    result = compared(CANDIDATE, records(-math.inf, -math.inf, -math.inf), records(0.9, 0.9, 0.88), 0.05)
    assert result.holds
    assert result.gain == pytest.approx(0.99, abs=0.02)
    assert scores(result.sick) == (-math.inf,) * 3


class Laboratory:
    """Runs whose scores are given, by seed, as they are and with the change."""

    def __init__(self, sick: dict[int, float], cured: dict[int, float]) -> None:
        self.sick, self.cured = sick, cured
        self.tried: list[tuple[int, bool]] = []

    def run(self, seed: int, change: Any = None, where: str | None = None) -> RunRecord:
        self.tried.append((seed, change is not None))
        return record(seed, (self.sick if change is None else self.cured)[seed])


def verified(sick: dict[int, float], cured: dict[int, float], clock: Clock | None = None):
    laboratory = Laboratory(sick, cured)
    verifier = Verifier(laboratory, clock or Clock(1e9), [1, 2, 3], lambda stage, detail: None)  # type: ignore[arg-type]
    return verifier.verify(CANDIDATE), laboratory, verifier


def test_three_seeds_do_if_they_settle_it() -> None:
    result, laboratory, verifier = verified({1: 0.2, 2: 0.2, 3: 0.25}, {1: 0.9, 2: 0.9, 3: 0.9})
    assert result is not None
    assert result.holds
    assert not verifier.is_cut_short
    assert laboratory.tried == [(1, False), (1, True), (2, False), (2, True), (3, False), (3, True)]


def test_two_more_seeds_if_three_leave_it_open() -> None:
    sick = {1: 0.2, 2: 0.8, 3: 0.2, 4: 0.2, 5: 0.2}
    result, _, _ = verified(sick, dict.fromkeys(sick, 0.9))
    assert result is not None
    assert len(result.sick) == len(result.cured) == 5
    assert result.holds


def test_the_level_is_that_of_the_look() -> None:
    """T = 0.3 / (0.1 / sqrt(3)) = 5.2, between the critical values 4.3 at 5 % and 5.6 at 3 %."""
    sick, cured = records(0.4, 0.4, 0.4), records(0.8, 0.7, 0.6)
    assert compared(CANDIDATE, sick, cured, 0.05).holds
    assert not compared(CANDIDATE, sick, cured, 0.03).holds
    seeds = range(1, 6)
    finals = (0.8, 0.7, 0.6, 0.7, 0.7)
    result, laboratory, _ = verified(dict.fromkeys(seeds, 0.4), dict(zip(seeds, finals, strict=True)))
    assert len(laboratory.tried) == 10  # three seeds left it open
    assert result is not None
    assert result.holds


def test_no_more_seeds_for_a_cure_that_does_nothing() -> None:
    _, laboratory, _ = verified(dict.fromkeys((1, 2, 3), 0.9), {1: 0.9, 2: 0.91, 3: 0.89})
    assert len(laboratory.tried) == 6


def test_a_second_cure_uses_the_runs_of_the_first() -> None:
    _, laboratory, verifier = verified(dict.fromkeys((1, 2, 3), 0.2), dict.fromkeys((1, 2, 3), 0.2))
    verifier.verify(CANDIDATE)
    assert [with_change for _, with_change in laboratory.tried[6:]] == [True, True, True]


def test_without_time_nothing_is_verified() -> None:
    clock = Clock(1.0, lambda: 0.0, lambda: 0.0)
    clock._durations.append((0.6, 0.0))
    result, laboratory, verifier = verified({}, {}, clock)
    assert result is None
    assert laboratory.tried == []
    assert verifier.is_cut_short
