"""Scores of stored results: which split selects, which evaluates, and which scores are bounds."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison.protocol.score_scale import ScoreScale
from thalweg.comparison.protocol.trial import TrialScore
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.scoring import trial_score
from thalweg.comparison.training.result import TrainingResult

UNTRAINED = {"train": 4.0, "validation": 5.0, "test": 6.0}


class FakePlan:
    """The part of a plan that scores are computed from."""

    target = None
    scale = ScoreScale("log", UNTRAINED)
    selected_on = "validation"
    judged_on = "test"


def scores_of(result: TrainingResult) -> TrialScore:
    record = TrialRecord("a", "race", 0, 0, 0, {}, result)
    plan: Any = FakePlan()
    return trial_score(record, plan)


def test_the_selection_split_selects_and_the_test_split_evaluates() -> None:
    scores = scores_of(TrainingResult("ok", 0.5, 1.0, 2.0))
    assert (scores.selection_score, scores.evaluation_score) == (
        pytest.approx(math.log(1.0)),
        pytest.approx(math.log(2)),
    )
    assert (scores.completed, scores.clipped) == (True, False)


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_training_that_did_not_end_well_counts_as_untrained_by_each_split(status: str) -> None:
    scores = scores_of(TrainingResult(status, 0.5, 1.0, 2.0))
    assert (scores.selection_score, scores.evaluation_score) == (pytest.approx(math.log(5)), pytest.approx(math.log(6)))
    assert (scores.completed, scores.clipped) == (False, True)


@pytest.mark.parametrize(("loss", "clipped"), [(5.9, False), (6.0, False), (6.1, True), (math.nan, True)])
def test_a_score_is_a_bound_where_the_loss_is_worse_than_untrained(loss: float, clipped: bool) -> None:
    scores = scores_of(TrainingResult("ok", 0.5, 1.0, loss))
    assert scores.clipped == clipped
    assert scores.evaluation_score == pytest.approx(math.log(min(6.0, loss) if loss == loss else 6.0))


@pytest.mark.parametrize(("value", "clipped"), [(0.2, False), (0.1, False), (0.09, True), (math.nan, True)])
def test_a_maximized_value_is_a_bound_where_it_is_below_that_of_the_untrained_model(
    value: float, clipped: bool
) -> None:
    class Plan(FakePlan):
        scale = ScoreScale("linear", dict.fromkeys(UNTRAINED, 0.1), maximize=True)

    plan: Any = Plan()
    scores = trial_score(TrialRecord("a", "race", 0, 0, 0, {}, TrainingResult("ok", 0.5, 0.4, value)), plan)
    assert (scores.clipped, scores.selection_score) == (clipped, -0.4)
    assert scores.evaluation_score == -max(0.1, value if value == value else 0.1)


def test_a_whole_comparison_selects_by_validation_and_evaluates_by_test() -> None:
    """A function that reports a validation loss which rises, and a test loss which falls, with the learning rate."""

    def train(make_optimizer: Any, report: Any) -> None:
        optimizer = make_optimizer([nn.Parameter(torch.ones(1))])
        lr = optimizer.param_groups[0]["lr"]
        report(1.0)
        report(0.1 + lr, test=1 / (1 + lr))

    comparison = thalweg.compare(train, ["sgd:momentum=0,weight_decay=0"], budget="8trials")
    (summary,) = comparison.contenders
    rates = sorted(trial.settings["lr"] for trial in summary.trials["search"])
    assert summary.settings["lr"] == rates[0] < rates[-1]
    assert summary.value.mean == pytest.approx(1 / (1 + rates[0]))
