"""Summaries: which settings lie at an end of their search range, and the span of good learning rates."""

from dataclasses import replace

import pytest

from cases.comparison_records import PLAN
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.summary import RangeEdge, find_edges, good_rates
from thalweg.comparison.training.result import TrainingResult
from thalweg.rules import Range

LR = Range(1e-4, 1.0, "log")


@pytest.mark.parametrize(
    ("position", "edge"),
    [
        (0.0, ("lower", 1e-4)),
        (0.049, ("lower", 1e-4)),
        (0.051, None),
        (0.5, None),
        (0.949, None),
        (0.951, ("upper", 1.0)),
        (1.0, ("upper", 1.0)),
    ],
)
def test_a_setting_within_a_twentieth_of_an_end_is_at_that_end(position: float, edge: tuple[str, float] | None) -> None:
    value = LR.value_at(position)
    edges = find_edges({"lr": LR, "momentum": Range(0.5, 0.99)}, {"lr": value})
    assert edges == ([] if edge is None else [RangeEdge("lr", value, *edge)])


def searched(rates_and_losses: dict[float, float], status: str = "ok") -> list[TrialRecord]:
    return [
        TrialRecord("sgd", "search", 0, trial, 0, {"lr": rate}, TrainingResult(status, loss, loss, loss))
        for trial, (rate, loss) in enumerate(rates_and_losses.items())
    ]


def test_good_learning_rates_are_those_within_a_tenth_of_the_best_loss() -> None:
    trials = searched({1e-3: 1.2, 1e-2: 1.09, 1e-1: 1.0, 1.0: 1.11})
    assert good_rates(trials, PLAN) == pytest.approx(10.0)
    assert good_rates(searched({0.1: 1.0}, status="diverged"), PLAN) is None
    assert good_rates(trials, replace(PLAN, design=replace(PLAN.design, pruned=True))) is None
    assert good_rates([replace(trials[0], settings={"momentum": 0.9})], PLAN) is None
