"""Cautions that follow from summaries alone: their sentences, word by word."""

import math
from dataclasses import replace

import pytest

from cases.comparison_records import PLAN, WORKLOAD
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.results.cautions import cautions
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.summary import STAGES, Estimate, RangeEdge, Summary
from thalweg.comparison.results.verdict import Verdict

SCHEDULES = {name: TrainingSchedule(100, "linear") for name in ("sgd", "adam")}
RECORD = ComparisonRecord(1, "key", "2026-01-01", "2026-01-02", WORKLOAD, [], replace(PLAN, schedules=SCHEDULES), {})
SUMMARY = Summary(
    name="sgd",
    about="",
    settings={"lr": 0.1},
    searched=["lr"],
    values=[1.0] * 5,
    value=Estimate(1.0, 0.9, 1.1, 5),
    untuned=Estimate(2.0, 1.9, 2.1, 5),
    recommended=None,
    example_error=math.nan,
    rank=None,
    studies=0,
    worse_by=0.0,
    train_loss=1.0,
    seeds=[1, 2, 3, 4, 5],
    diverged=0,
    failed=0,
    missed=0,
    seconds=1.0,
    state_bytes=0,
    state_numbers=0,
    line="",
    at_edge=[],
    good_rates=None,
    trials={stage: [] for stage in STAGES},
)
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
