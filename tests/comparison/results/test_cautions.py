"""Cautions that follow from summaries alone: their sentences, word by word."""

import math
from dataclasses import replace

import pytest

from cases.comparison_records import PLAN, SUMMARY, WORKLOAD
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.results.cautions import cautions
from thalweg.comparison.results.checks.preferences import preferred_on_validation
from thalweg.comparison.results.checks.softening import softened
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.records import ComparisonRecord, TrialRecord
from thalweg.comparison.results.summary import RangeEdge, Summary
from thalweg.comparison.results.verdict import Verdict
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.target import Target

SCHEDULES = {name: TrainingSchedule(100, "linear") for name in ("sgd", "adam")}
RECORD = ComparisonRecord(1, "key", "2026-01-01", "2026-01-02", WORKLOAD, [], replace(PLAN, schedules=SCHEDULES), {})
VERDICT = Verdict("best", "sgd", ["sgd"], ["sgd"], "sgd", None, "Use sgd.", "", "")


def with_draws(draws: int) -> ComparisonRecord:
    return replace(RECORD, plan=replace(RECORD.plan, design=replace(RECORD.plan.design, draws=draws)))


MANY_DRAWS = with_draws(24)


def cautions_of(*summaries: Summary, record: ComparisonRecord = MANY_DRAWS) -> list[str]:
    return cautions(record, summaries, VERDICT, "the untrained model")


def test_a_clean_comparison_has_no_cautions() -> None:
    assert cautions_of(SUMMARY) == []


@pytest.mark.parametrize(
    ("edge", "sentence"),
    [
        (
            RangeEdge("momentum", 0.54, "lower", 0.5),
            "sgd: the best momentum, 0.54, is at the lower end of its search range (0.5). "
            "A better value may lie below.",
        ),
        (
            RangeEdge("lr", 0.97, "upper", 1.0),
            "sgd: the best lr, 0.97, is at the upper end of its search range (1). A better value may lie above.",
        ),
    ],
)
def test_a_setting_at_an_end_names_value_end_and_direction(edge: RangeEdge, sentence: str) -> None:
    assert cautions_of(replace(SUMMARY, at_edge=[edge])) == [sentence]


@pytest.mark.parametrize(
    ("draws", "sentence"),
    [
        (1, "Only 1 setting was trained for each contender. A larger budget may change the best contender."),
        (
            9,
            "Only 9 settings were searched for each contender (the learning rate alone), so neighbouring settings lie "
            "far apart. A larger budget may change the best contender.",
        ),
        (
            15,
            "Only 15 settings were searched for each contender (learning rate and momentum), so neighbouring settings "
            "lie far apart. A larger budget may change the best contender.",
        ),
        (16, None),
    ],
)
def test_few_settings_lie_far_apart(draws: int, sentence: str | None) -> None:
    assert cautions_of(SUMMARY, record=with_draws(draws)) == ([] if sentence is None else [sentence])


def test_the_error_over_test_examples_is_beside_the_intervals_over_seeds() -> None:
    assert cautions_of(replace(SUMMARY, example_error=0.05)) == [
        "Intervals are over seeds. The standard error of sgd over the test examples is 0.05 (5 % of its value). "
        "On new data, values may differ by that much."
    ]


@pytest.mark.parametrize(
    ("untuned", "end"),
    [
        (Estimate(0.5, 0.4, 0.6, 5), ""),
        (Estimate(0.95, 0.5, 1.4, 5), " The intervals overlap, so this may be chance."),
        (Estimate(0.98, 0.5, 1.4, 5), None),  # within the margin
        (Estimate(0.95, 0.5, 1.4, 5, lost=1), None),  # a bound
    ],
)
def test_untuned_settings_that_beat_the_winner_are_named(untuned: Estimate, end: str | None) -> None:
    adam = replace(SUMMARY, name="adam", value=Estimate(2.0, 1.9, 2.1, 5), untuned=untuned)
    sentence = (
        f"Untuned, adam was measured better at its defaults ({untuned.mean:g}) than sgd at the best of the 0 settings "
        "searched (1). The search did not find the best settings."
    )
    assert cautions_of(SUMMARY, adam) == ([] if end is None else [sentence + end])


def test_a_second_rule_after_the_last_step_never_ran() -> None:
    sentence = (
        "sgd switches to its second rule after step 100, but trainings end after step 100, so that rule never ran. "
        "Set a smaller step, such as switch_at=50."
    )
    assert cautions_of(replace(SUMMARY, settings={"switch_at": 100})) == [sentence]
    assert cautions_of(replace(SUMMARY, settings={"switch_at": 99})) == []


def raced(name: str, validations: list[float], tests: list[float]) -> Summary:
    """Return the summary of a contender with these losses in the race."""
    trials = [
        TrialRecord(name, "race", 0, 0, seed, {}, TrainingResult("ok", 1.0, validation, test))
        for seed, (validation, test) in enumerate(zip(validations, tests, strict=True))
    ]
    return replace(SUMMARY, name=name, raced=trials)


SEEDS = 6
WINNER = raced("sgd", [1.0, 1.1, 0.9, 1.0, 1.1, 0.9], [1.0] * SEEDS)
# The critical value of two contenders at 5 % and 6 seeds is t(0.975, 5) = 2.5706, and the differences of the logarithms
# below have a mean of log(1.1) = 0.0953.
SPREAD = 0.0953 / 2.5706 * math.sqrt(SEEDS) / math.sqrt(6 / 5)


@pytest.mark.parametrize(
    ("spread", "share", "test", "is_told"),
    [
        (0.01, 1.1, 1.05, True),
        (0.99 * SPREAD, 1.1, 1.05, True),
        (1.01 * SPREAD, 1.1, 1.05, False),  # not shown
        (0.01, 1.02, 1.05, False),  # within the margin of 3 %
        (0.01, 1.1, 0.95, False),  # both splits prefer the other
        (0.01, 1 / 1.1, 1.05, False),  # both splits prefer the winner
    ],
)
def test_a_validation_split_that_disagrees_is_told_and_softens_the_headline(
    spread: float, share: float, test: float, is_told: bool
) -> None:
    validations = [
        trial.result.validation / share * math.exp(sign * spread)
        for trial, sign in zip(WINNER.raced, [1, -1] * (SEEDS // 2), strict=True)
    ]
    summaries = [WINNER, raced("adam", validations, [test] * SEEDS)]
    verdict = softened(VERDICT, RECORD, summaries)
    stated = [caution for caution in cautions_of(*summaries) if "splits disagree" in caution]
    if not is_told:
        assert (verdict, stated) == (VERDICT, [])
        return
    assert verdict.headline == "sgd on the test split, adam on the validation split: not settled."
    assert stated == [
        "The splits disagree: on the validation split sgd is shown to be worse than adam by 10.0 %, over the same 6 "
        "seeds; on the test split it is not. With other data either may be better. Take larger splits."
    ]


def test_splits_cannot_disagree_if_one_loss_both_chooses_and_evaluates() -> None:
    adam = raced("adam", [0.9] * SEEDS, [1.05] * SEEDS)
    winner = raced("sgd", [1.0] * SEEDS, [1.0] * SEEDS)
    assert preferred_on_validation(RECORD, [winner, adam], winner)
    for changes in ({"selected_on": "test"}, {"target": Target(0.5, "validation", 10, "passes")}):
        record = replace(RECORD, plan=replace(RECORD.plan, **changes))
        assert preferred_on_validation(record, [winner, adam], winner) == []
    few = [replace(summary, raced=summary.raced[:2]) for summary in (winner, adam)]
    assert preferred_on_validation(RECORD, few, few[0]) == []
