"""Hopeless trainings of a search are stopped, and no others."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from thalweg.comparison import compare
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.pruning import HopelessRungs, stop_steps
from thalweg.comparison.training.result import Evaluation


def curve(*values: float) -> list[Evaluation]:
    return [Evaluation(step, math.nan, value) for step, value in enumerate(values, start=1)]


def rungs(curves: Sequence[Sequence[Evaluation]], *, maximize: bool = False) -> HopelessRungs:
    return HopelessRungs.after("validation", curves, maximize=maximize)


SIX = [curve(5.0 + 0.1 * k, 4.0 + 0.2 * k, 1.0 + k) for k in range(6)]  # the five best are at 4.0 to 4.8 in step 2


def test_worse_than_all_models_by_more_than_their_spread_is_hopeless() -> None:
    assert rungs(SIX).survivors(2, [5.59, 5.61, 4.0, math.inf, math.nan]) == [0, 2]
    assert rungs(SIX).survivors(1, [5.79, 5.81]) == [0]


def test_higher_values_may_be_better() -> None:
    negative = [[Evaluation(each.step, math.nan, -each.validation) for each in one] for one in SIX]
    assert rungs(negative, maximize=True).survivors(2, [-5.59, -5.61, -4.0]) == [0, 2]


def test_five_completed_trainings_stop_nothing() -> None:
    assert rungs(SIX[:5]).survivors(2, [1e9]) == [0]
    assert rungs(SIX[:5]).earlier_losses == {}


def test_a_fifth_of_many_are_models() -> None:
    many = [curve(float(k), float(k)) for k in range(50)]
    assert rungs(many).survivors(1, [18.0, 18.1]) == [0]  # models end at 0 to 9


def test_models_are_those_that_ended_best() -> None:
    late = [curve(50.0, 0.0), *(curve(1.0 + k / 10, 3.0 + k) for k in range(6))]
    # The late one is a model, though it began badly: so a bad beginning is no reason to stop.
    assert rungs(late).survivors(1, [98.0]) == [0]
    assert rungs(late[1:]).survivors(1, [98.0]) == []


def test_trainings_that_report_their_end_alone_are_never_stopped() -> None:
    alone = [curve(float(k)) for k in range(20)]
    assert rungs(alone).earlier_losses == {}


def test_neither_the_end_nor_the_very_beginning_is_a_point() -> None:
    long = [curve(*(float(k) for _ in range(20))) for k in range(6)]
    assert list(rungs(long).earlier_losses) == list(range(3, 20))  # of 20, from 15 % on


def test_trainings_with_a_value_that_is_not_finite_are_no_models() -> None:
    broken = [*SIX[:5], curve(0.0, math.nan, -9.0)]
    assert rungs(broken).models == ()


def test_a_batch_does_not_stop_itself() -> None:
    points = rungs(SIX)
    assert points.with_training(curve(0.0, 0.0, 0.0)) is points


def test_the_points_of_a_task_lie_inside_its_schedule() -> None:
    assert stop_steps(TrainingSchedule(100, "linear")) == [25, 50]
    assert stop_steps(TrainingSchedule(1, "linear")) == []


@pytest.mark.parametrize("prune", [True, False])
def test_a_search_stops_hopeless_trainings_if_it_is_told_to_prune(prune: bool) -> None:
    def train(make_optimizer: Any, report: Any) -> None:
        param = nn.Parameter(torch.full((4,), 3.0))
        optimizer = make_optimizer([param])
        for step in range(10):
            optimizer.zero_grad()
            (param - torch.arange(4.0)).square().sum().backward()
            optimizer.step()
            if step % 2:
                report(float((param.detach() - torch.arange(4.0)).square().sum()) + 0.1)

    comparison = compare(train, ["sgd", "adam"], budget="12trials", workers=1, prune=prune)
    searched = [trial for summary in comparison.contenders for trial in summary.trials["search"]]
    stopped = [trial for trial in searched if trial.result.status == "pruned"]
    assert bool(stopped) is prune
    assert {len(trial.result.evaluations) for trial in stopped} <= {1, 2, 3, 4}
    evidence = comparison.findings.evidence
    assert evidence is not None
    assert evidence.stopped == len(stopped)
