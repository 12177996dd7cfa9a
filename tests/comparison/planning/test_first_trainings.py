"""The first trainings of a function measure its scale, length and speed. A contender that diverges decides none."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison.training.result import Evaluation, TrainingResult
from thalweg.comparison.training.timing import measurement_of_trainings


def train(make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[[float], None]) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([weight])
    for _ in range(4):
        optimizer.zero_grad()
        loss = weight.square().sum() + 1
        loss.backward()
        optimizer.step()
        report(float(weight.detach().square().sum() + 1))  # after the step, so that no report is the untrained model's


SGD = torch.optim.SGD  # a class has no recommended settings, so it does not come before the others


class Exploding(torch.optim.SGD):
    """An optimizer that makes the parameters huge, and not finite in the end if ``diverges``."""

    diverges = True

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                param.data.mul_(1e9)
                param.data += math.inf if self.diverges and param.data.max() > 1e12 else 0.0


class Growing(Exploding):
    """An optimizer under which the loss grows and stays finite."""

    diverges = False


def scale_of(contenders: Sequence[Any], **options: Any) -> Any:
    comparison = thalweg.compare(train, contenders, budget="4trials", workers=1, quiet=True, **options)
    return comparison.plan.scale


@pytest.mark.parametrize("wild", [Exploding, Growing])
def test_a_contender_that_diverges_does_not_decide_the_value_of_lost_trainings(wild: type) -> None:
    alone = scale_of([SGD])
    assert alone.untrained["test"] < 100
    assert scale_of([wild, SGD]).untrained == alone.untrained
    assert scale_of([wild, SGD], control=True).untrained == alone.untrained
    assert scale_of([SGD, wild]).untrained == alone.untrained


def test_a_ranking_measures_by_another_contender_too() -> None:
    ranked = thalweg.compare(train, [Exploding, SGD], budget="2x4trials", workers=1, quiet=True)
    assert ranked.plan.scale.untrained == scale_of([SGD]).untrained


def test_a_ranking_trains_no_more_than_it_needs_to_measure() -> None:
    names = [SGD, torch.optim.Adam]
    ranked = thalweg.compare(train, names, budget="2x4trials", workers=2, quiet=True)
    first = [trial.contender for trial in ranked.trainings if trial.stage == "search" and trial.trial < 0]
    assert first == ["torch.optim:SGD"]


def test_if_all_diverge_the_value_comes_from_them() -> None:
    assert scale_of([Exploding]).untrained["test"] > 1e9


def result(status: str, *values: float, maximize: bool | None = None, seconds: float = 1.0) -> TrainingResult:
    evaluations = [Evaluation(step, value, value) for step, value in enumerate(values, start=1)]
    last = values[-1] if values else math.nan
    return TrainingResult(status, last, last, last, evaluations=evaluations, seconds=seconds, maximize=maximize)  # type: ignore[arg-type]


def test_a_training_is_sound_that_ends_no_worse_than_it_began() -> None:
    assert result("ok", 2.0, 3.0, 1.0).is_sound
    assert result("ok", 2.0).is_sound
    assert result("ok", 0.5, 0.9, maximize=True).is_sound
    assert not result("ok", 2.0, 2.1).is_sound
    assert not result("ok", 0.9, 0.5, maximize=True).is_sound
    assert not result("diverged", 2.0, 1.0).is_sound
    assert not result("ok").is_sound


def test_sound_trainings_measure_length_and_speed() -> None:
    lost, sound = result("diverged", 1e9, seconds=0.1), result("ok", 2.0, 1.5, 1.0, seconds=8.0)
    measured = measurement_of_trainings([lost, sound])
    assert measured is not None
    assert (measured.steps, measured.single_s, measured.reports) == (3, 8.0, ((2.0, 1.5, 1.0),))
    alone = measurement_of_trainings([lost])
    assert alone is not None
    assert alone.reports == ((1e9,),)
