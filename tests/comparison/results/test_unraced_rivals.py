"""Contenders that did not race, and are better than the winner on the seeds that both have: when they count."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import stdev

import pytest

from cases.comparison_records import PLAN, SUMMARY, WORKLOAD
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.results.cautions import cautions
from thalweg.comparison.results.checks.softening import softened, softening_of
from thalweg.comparison.results.checks.unraced_rivals import better_unraced
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.summary import Summary
from thalweg.comparison.results.verdict import Verdict
from thalweg.comparison.training.result import TrainingResult

SCHEDULES = {name: TrainingSchedule(100, "linear") for name in ("sgd", "adam", "lion")}
RECORD = ComparisonRecord(1, "key", "2026-01-01", "2026-01-02", WORKLOAD, [], replace(PLAN, schedules=SCHEDULES), {})
VERDICT = Verdict("best", "sgd", ["sgd"], ["sgd"], "sgd", None, "Use sgd.", "", "")

NOISE = [0.1, -0.1, 0.2, -0.2, 0.0]  # of the winner's logarithms, in the race and again in the seeds of its value
SPREAD = stdev([*NOISE, *NOISE])
# t(0.975, 9) of the table of Student's distribution, for a single difference of two independent trainings.
ONE_SEED = 2.2622 * SPREAD * math.sqrt(2)


def trained(name: str, stage: str, tests: Sequence[float], trial: int = 3, status: str = "ok") -> list[TrialRecord]:
    """Return the trainings of one setting in a stage, with these test losses and a validation loss of 1."""
    return [
        TrialRecord(name, stage, 0, trial, seed, {}, TrainingResult(status, 1.0, 1.0, test))  # type: ignore[arg-type]
        for seed, test in enumerate(tests)
    ]


def winner_of(search: Sequence[float], stage: str = "search") -> Summary:
    """Return a winner that raced over five seeds, after these test losses in an earlier stage."""
    race, value = (trained("sgd", each, [math.exp(noise) for noise in NOISE]) for each in ("race", "value"))
    others = trained("sgd", stage, [1e-9] * len(search), trial=4)  # another setting of it
    trials = {**SUMMARY.trials, "race": race, "value": value, stage: [*trained("sgd", stage, search), *others]}
    return replace(SUMMARY, raced=race, trials=trials)


def unraced(winner: Summary, tests: Sequence[float], stage: str = "search", status: str = "ok") -> Summary:
    """Return a contender that did not race, beside the winner's trainings of a stage."""
    own = trained("adam", stage, tests, trial=7, status=status)
    beside = [trial for trial in winner.trials[stage] if trial.trial == 3]
    return replace(SUMMARY, name="adam", raced=[], beside_leader=list(zip(own, beside, strict=True)))


def told(winner: Summary, *rivals: Summary, record: ComparisonRecord = RECORD) -> list[str]:
    stated = cautions(record, [winner, *rivals], VERDICT, "the untrained model")
    return [caution for caution in stated if "did not race, but" in caution]


@pytest.mark.parametrize(
    ("gain", "is_told"),
    [(1.01 * ONE_SEED, True), (0.99 * ONE_SEED, False), (-1.01 * ONE_SEED, False), (0.0, False)],
)
def test_a_difference_on_one_seed_counts_if_it_is_larger_than_seeds_make_likely(gain: float, is_told: bool) -> None:
    winner = winner_of([0.5])
    rival = unraced(winner, [0.5 * math.exp(-gain)])
    assert bool(told(winner, rival)) is is_told
    assert (softening_of(VERDICT, RECORD, [winner, rival]) is not None) is is_told


def test_more_common_seeds_show_smaller_differences() -> None:
    losses = [0.5, 0.6, 0.4, 0.5]
    winner = winner_of(losses, "final")
    for share, is_told in ((0.51, True), (0.49, False)):
        assert (
            bool(told(winner, unraced(winner, [x * math.exp(-share * ONE_SEED) for x in losses], "final"))) is is_told
        )


def test_more_unraced_contenders_need_a_larger_difference() -> None:
    winner = winner_of([0.5])
    rival = unraced(winner, [0.5 * math.exp(-1.05 * ONE_SEED)])
    worse = replace(unraced(winner, [0.9]), name="lion")
    assert told(winner, rival)
    assert not told(winner, rival, worse)


def test_the_caution_and_the_headline_name_the_contender_and_the_seeds() -> None:
    winner = winner_of([0.5])
    rival = unraced(winner, [0.2])
    assert told(winner, rival) == [
        "adam did not race, but on the one seed that both have it is 60.0 % better than sgd (test loss): more than the "
        "10 seeds of sgd make likely. Compare the two alone: --with sgd,adam"
    ]
    verdict = softened(VERDICT, RECORD, [winner, rival])
    assert verdict.headline == "sgd won the race, adam was better without one: not settled."
    assert softening_of(verdict, RECORD, [winner, rival]) is not None
    finals = winner_of([0.5, 0.5], "final")
    assert "on the 2 seeds that both have" in told(finals, unraced(finals, [0.2, 0.2], "final"))[0]


def test_a_headline_that_claims_nothing_stays() -> None:
    winner = winner_of([0.5])
    summaries = [winner, unraced(winner, [0.2])]
    unfinished = replace(RECORD, finished=None)
    assert softened(VERDICT, unfinished, summaries) == VERDICT
    undecided = replace(VERDICT, settled="open", headline="sgd or lion: not told apart.")
    assert softened(undecided, RECORD, summaries) == undecided


def test_only_ended_trainings_and_races_count() -> None:
    winner = winner_of([0.5])
    rival = unraced(winner, [0.2])
    assert better_unraced(RECORD, [winner, rival], winner)
    lost = unraced(winner, [0.2], status="diverged")
    assert better_unraced(RECORD, [winner, lost], winner) == []
    raced = replace(rival, raced=winner.raced)  # its race has decided
    assert better_unraced(RECORD, [winner, raced], winner) == []
    without_race = replace(winner, raced=[])
    assert better_unraced(RECORD, [without_race, rival], without_race) == []


def test_a_difference_within_the_margin_is_too_small_to_matter() -> None:
    race = trained("sgd", "race", [1.0, 1.0, 1.0])
    trials = {**SUMMARY.trials, "race": race, "search": trained("sgd", "search", [1.0])}
    winner = replace(SUMMARY, raced=race, trials=trials)
    assert told(winner, unraced(winner, [0.98])) == []
    assert told(winner, unraced(winner, [0.96]))
