"""Which changes are tried, which cause they show, and which cure is the smallest, on scripted runs."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from thalweg.diagnosis.changes import CHANGES, Change
from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.judging.candidates import CORE_PROBES, PROBES, Candidate, ordered
from thalweg.diagnosis.judging.clock import Clock
from thalweg.diagnosis.judging.trials import Trials
from thalweg.diagnosis.judging.verdict import Verdict, decide, finding_of, smallest_cures
from thalweg.diagnosis.kinds import KINDS
from thalweg.diagnosis.run_record import RunRecord

STEPS = 100
MOMENTS = (0, 10, 25, 50, 75, 90, 100)


class Step(Change):
    """A change that a scripted laboratory knows by name."""

    def alter(self, training: Any, where: str | None) -> None: ...

    def lines(self, training: Any, where: str | None) -> str:
        return ""

    def code(self, training: Any, where: str | None) -> str:
        return ""


def record(name: str, final: float, losses: tuple[float, ...] = (2.0,) * STEPS) -> RunRecord:
    """A run that rises from 0.1 to its final score by the middle; minus infinity diverges."""
    scores = tuple((moment, 0.1 + (final - 0.1) * min(1.0, moment / 50)) for moment in MOMENTS)
    if math.isinf(final):
        return RunRecord(name, 0, losses, ((0, 0.1),), 0.1, None, False, ending="diverged")
    return RunRecord(name, 0, losses, scores, 0.1, 0.1 if final > 0.1 else None, False)


class Laboratory:
    """Runs with scripted final scores, by the name of the change."""

    steps, score_name = STEPS, "metric"

    def __init__(self, finals: Mapping[str, float]) -> None:
        self.finals = finals
        self.tried: list[str] = []

    def run(self, seed: int, change: Change, where: str | None, *, stop: Any = None) -> RunRecord:
        self.tried.append(change.name)
        whole = record(change.name, self.finals.get(change.name, 0.2))
        for count in range(2, len(whole.scores) if stop else 0):
            part = RunRecord(whole.name, 0, whole.losses, whole.scores[:count], 0.1, None, False, ending="stopped")
            if stop(part):
                return part
        return whole


def clue_candidate(kind: str, certainty: Any, name: str, size: int = 1, where: str | None = None, since: int = 0):
    return Candidate(Clue(kind, certainty, where, since), Step(name=name, cures=(kind,), size=size))


def probe(kind: str, name: str, size: int = 1) -> Candidate:
    return Candidate(Clue(kind, "possible"), Step(name=name, cures=(kind,), size=size), is_probe=True)


CORE = [probe("lr_too_high", "lower"), probe("lr_too_low", "higher"), probe("sgd_on_badly_scaled", "adam")]


def tried(candidates: list[Candidate], sick: float, reserve: float = 0.0, **finals: float) -> tuple[Trials, list[str]]:
    laboratory = Laboratory(finals)
    trials = Trials(laboratory, Clock(1e9), record("as it is", sick), reserve, lambda stage, detail: None)  # type: ignore[arg-type]
    trials.run(candidates)
    return trials, laboratory.tried


def verdict(candidates: list[Candidate], sick: float, **finals: float) -> tuple[Trials, Verdict]:
    trials, _ = tried(candidates, sick, **finals)
    return trials, decide(trials, ordered(candidate.clue for candidate in candidates if not candidate.is_probe))


def kinds(verdict: Verdict) -> list[str]:
    return [candidate.kind for candidate in verdict.causes]


def test_a_training_that_nothing_improves_is_healthy() -> None:
    _, result = verdict(CORE, 0.9, lower=0.5, higher=0.9, adam=0.92)
    assert result == Verdict((), (), is_failing=False)


@pytest.mark.parametrize(("certainty", "least"), [("certain", 0.04), ("likely", 0.06), ("possible", 0.1)])
def test_the_less_a_clue_says_the_more_its_change_must_gain(certainty: str, least: float) -> None:
    def failing(gain: float) -> bool:
        candidate = clue_candidate("clip_too_small", certainty, "no clip")
        return verdict([*CORE, candidate], 0.9 - 0.8 * gain, **{"no clip": 0.9})[1].is_failing

    assert failing(least + 0.005)
    assert not failing(least - 0.005)


def test_a_probe_must_gain_most() -> None:
    assert not verdict(CORE, 0.9 - 0.8 * 0.145, higher=0.9)[1].is_failing
    assert kinds(verdict(CORE, 0.9 - 0.8 * 0.155, higher=0.9)[1]) == ["lr_too_low"]


def test_among_probes_that_cure_equally_one_for_few_trainings_wins() -> None:
    slower = probe("gan_discriminator_wins", "slower")
    assert kinds(verdict([*CORE, slower], 0.2, lower=0.9, slower=0.88)[1])[0] == "gan_discriminator_wins"


def test_a_specific_cause_wins_over_a_probe_that_cures_as_well() -> None:
    _, result = verdict([clue_candidate("no_zero_grad", "likely", "zero"), *CORE], 0.2, zero=0.88, adam=0.9)
    assert kinds(result)[:2] == ["no_zero_grad", "sgd_on_badly_scaled"]


def test_a_clue_whose_change_does_little_is_not_the_cause() -> None:
    _, result = verdict([clue_candidate("dead_relu", "likely", "leaky"), *CORE], 0.2, leaky=0.27, lower=0.9)
    assert kinds(result) == ["lr_too_high", "dead_relu"]


def test_among_probes_that_cure_equally_it_is_the_learning_rate() -> None:
    assert kinds(verdict(CORE, 0.2, adam=0.9, higher=0.89)[1]) == ["lr_too_low", "sgd_on_badly_scaled"]
    assert kinds(verdict(CORE, 0.2, adam=0.9, higher=0.6)[1]) == ["sgd_on_badly_scaled", "lr_too_low"]


def test_among_equal_clues_the_earliest_is_the_cause() -> None:
    early = clue_candidate("saturation", "likely", "scale", since=3)
    late = clue_candidate("dead_relu", "likely", "leaky", since=40)
    assert kinds(verdict([late, early, *CORE], 0.2, scale=0.9, leaky=0.9)[1]) == ["saturation", "dead_relu"]


def test_a_symptom_is_no_cause_where_something_explains_it() -> None:
    symptom = clue_candidate("loss_spike", "likely", "clip")
    assert kinds(verdict([symptom, *CORE], 0.2, clip=0.9, lower=0.8)[1])[0] == "lr_too_high"


def test_what_no_replay_settles_is_named_if_nothing_is_learnt() -> None:
    labels = Clue("labels_misaligned", "possible")
    trials, _ = tried(CORE, 0.1, lower=0.1, higher=0.1, adam=0.1)
    result = decide(trials, [labels, Clue("plateau", "possible")])
    assert (result.unsettled, result.is_failing) == ((labels,), True)

    trials, _ = tried(CORE, 0.9, lower=0.1, higher=0.9, adam=0.9)
    assert decide(trials, [labels]) == Verdict((), (), is_failing=False)


def test_a_certain_fault_without_a_change_is_no_healthy_training() -> None:
    unused = Clue("no_gradient", "certain", "body")
    trials, _ = tried(CORE, 0.9, lower=0.1, higher=0.9, adam=0.9)
    assert decide(trials, [unused]) == Verdict((), (unused,), is_failing=True)
    assert decide(trials, [replace(unused, certainty="likely")]).is_failing is False


def test_where_no_change_cures_what_is_likely_is_named() -> None:
    flat = clue_candidate("saturation", "likely", "scale")
    trials, _ = tried([flat, *CORE], 0.1, scale=0.1, lower=0.1, higher=0.1, adam=0.1)
    result = decide(trials, [flat.clue, Clue("plateau", "possible")])
    assert (result.unsettled, result.is_failing) == ((flat.clue,), True)


def test_differences_between_runs_that_learn_nothing_are_chance() -> None:
    scores = (0.1, 0.12, 0.09, 0.13, 0.1, 0.11, 0.13)
    noisy = RunRecord("", 0, (2.0,) * STEPS, tuple(zip(MOMENTS, scores, strict=True)), 0.1, 0.1, False)
    trials, _ = tried([clue_candidate("clip_too_small", "possible", "no clip"), *CORE], 0.1)
    trials.records = dict.fromkeys(trials.records, noisy)
    assert decide(trials, []).causes == ()


def test_a_metric_that_an_untrained_model_keeps_best_is_no_fault_if_the_loss_falls() -> None:
    def worse(losses: tuple[float, ...]) -> Verdict:
        bound = ((0, -0.2), (50, -1.8), (90, -1.9), (100, -1.9))
        trials, _ = tried([clue_candidate("saturation", "likely", "scale"), *CORE], 0.1)
        trials.sick = RunRecord("", 0, losses, bound, -0.2, -1.9, None)
        trials.records = dict.fromkeys(
            trials.records, replace(trials.sick, scores=((0, -0.2), (90, -1.1), (100, -1.1)))
        )
        return decide(trials, [])

    assert worse((2.0,) * 50 + (0.5,) * 50) == Verdict((), (), is_failing=False)
    assert worse((2.0,) * STEPS) == Verdict((), (), is_failing=True)
    assert worse((2.0,) * 50 + (50.0,) * 50).causes


def test_a_training_that_diverges_may_be_cured_by_a_probe() -> None:
    assert kinds(verdict(CORE, -math.inf, lower=0.9)[1]) == ["lr_too_high"]


def test_larger_changes_are_not_tried_where_a_small_one_does() -> None:
    candidates = [
        clue_candidate("saturation", "certain", "small", 1),
        clue_candidate("saturation", "certain", "large", 4),
    ]
    _, names = tried([*candidates, *CORE], 0.2, small=0.9, large=0.9, adam=0.9)
    assert "small" in names
    assert "large" not in names


def test_a_ladder_is_climbed_as_long_as_it_rises() -> None:
    rates = [probe("lr_too_low", name) for name in ("x10", "x100", "x1000")]
    _, names = tried(rates, 0.15, x10=0.3, x100=0.6, x1000=0.9)
    assert names[:3] == ["x10", "x100", "x1000"]
    _, names = tried(rates, 0.15, x10=0.9, x100=0.5, x1000=0.9)
    assert names[:2] == ["x10", "x100"]
    assert "x1000" not in names


def test_probes_end_early_on_a_healthy_training() -> None:
    more = [probe("no_warmup", "warm"), probe("lr_too_low", "higher still")]
    _, names = tried([*CORE, *more], 0.9, lower=0.9, higher=0.9, adam=0.9)
    assert names == ["lower", "higher", "adam"]


def test_a_replay_that_falls_behind_is_stopped_and_counts_for_nothing() -> None:
    trials, _ = tried(CORE, 0.9, lower=0.3, higher=0.9, adam=0.9)
    stopped = trials.records["lower", None]
    assert (stopped.ending, stopped.scores[-1][0]) == ("stopped", 50)
    trials.records["lower", None] = replace(record("lower", 0.95), ending="stopped")
    assert trials.gain(CORE[0]) == 0.0


def test_time_is_kept_for_the_verification() -> None:
    clock = Clock(1e9, lambda: 0.0, lambda: 0.0)
    laboratory = Laboratory({})
    trials = Trials(laboratory, clock, record("as it is", 0.2), 6.5, lambda stage, detail: None)  # type: ignore[arg-type]
    with clock.timing_run():
        clock.budget_s = 0.0
        clock._read = iter([1.0] * 9).__next__  # the run took a second
    trials.run(CORE)
    assert laboratory.tried == []
    assert trials.is_cut_short


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
def test_health_is_known_once_both_learning_rates_and_another_optimizer_were_tried(count: int) -> None:
    """A clue that is only possible is tried after the probes of other kinds."""
    candidates = [clue_candidate("lr_too_high", "possible", "lower"), *CORE[1:], probe("no_warmup", "warm")]
    laboratory, clock, left = Laboratory({}), Clock(1e9), iter([True] * count + [False] * 9)
    clock.pays_for = lambda runs: next(left)  # type: ignore[method-assign]
    trials = Trials(laboratory, clock, record("as it is", 0.5), 0.0, lambda stage, detail: None)  # type: ignore[arg-type]
    trials.run(candidates)
    assert laboratory.tried == ["higher", "adam", "lower"][:count]
    assert trials.shows_health is (count >= 3)


def test_the_cure_is_the_smallest_change_of_the_cause_that_does() -> None:
    candidates = [
        clue_candidate("saturation", "certain", "little", 1),
        clue_candidate("saturation", "certain", "middle", 2),
        clue_candidate("saturation", "certain", "large", 4),
    ]
    trials, result = verdict([*candidates, *CORE], 0.2, little=0.6, middle=0.89, large=0.9, adam=0.85)
    trials.records["large", None] = record("large", 0.9)
    assert smallest_cures(trials, result)[0].change.name == "middle"


def test_a_change_of_another_kind_is_the_cure_if_it_does_clearly_better() -> None:
    candidates = [clue_candidate("inputs_not_normalised", "certain", "normalize", 2), *CORE]
    trials, result = verdict(candidates, 0.2, normalize=0.7, adam=0.9)
    assert kinds(result)[0] == "inputs_not_normalised"
    assert smallest_cures(trials, result)[0].change.name == "adam"


def test_findings_have_the_scores_before_and_after() -> None:
    trials, result = verdict([clue_candidate("no_zero_grad", "likely", "zero"), *CORE], 0.2, zero=0.9)
    finding = finding_of(trials, result.causes[0])
    assert finding.severity == "error"
    assert finding.evidence["score"] == pytest.approx(0.2)
    assert finding.evidence["score with zero"] == pytest.approx(0.9)
    assert (
        finding_of(
            *verdict([clue_candidate("no_zero_grad", "likely", "zero"), *CORE], 0.8, zero=0.9)[:1],
            clue_candidate("no_zero_grad", "likely", "zero"),
        ).severity
        == "warning"
    )


def test_clues_in_order() -> None:
    clues = [
        Clue("plateau", "possible"),
        Clue("dead_relu", "likely", "b", 9),
        Clue("dead_relu", "likely", "a", 3),
        Clue("dead_relu", "possible", "a", 1),
        Clue("stale_optimizer", "certain", None, 50),
    ]
    assert [(clue.kind, clue.where, clue.since) for clue in ordered(clues)] == [
        ("stale_optimizer", None, 50),
        ("dead_relu", "a", 3),
        ("dead_relu", "b", 9),
        ("plateau", None, 0),
    ]


def test_probes_name_kinds_and_changes_that_exist() -> None:
    names = {change.name: change for change in CHANGES}
    assert set(CORE_PROBES) <= set(PROBES) <= set(KINDS)
    for kind, changes in PROBES.items():
        assert all(kind in names[change].cures for change in changes), kind
