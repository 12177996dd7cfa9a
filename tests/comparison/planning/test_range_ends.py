"""The range search at its boundaries: how near to an end the best learning rate must be for a range to grow."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.external import external_optimizer
from thalweg.comparison.planning.lr_range_search import NUM_RATES, extended_ranges
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.rules import Range

RANGE = Range(1e-3, 1.0, "log")


def contender() -> Contender:
    optimizer = external_optimizer(torch.optim.SGD, "torch.optim:SGD")
    lr = replace(optimizer.declared["lr"], search=RANGE)
    return Contender("sgd", replace(optimizer, declared={"lr": lr}))


def extend(best: int, *, diverging: Sequence[int] = (), split: str = "validation") -> tuple[float, float, int] | None:
    """Return the range and the number of its extensions if this point is the best one; None if the range stays."""
    rate = RANGE.value_at(best / (NUM_RATES - 1))

    def train(_: Sequence[Contender], trials: Sequence[Trial]) -> list[TrainingResult]:
        losses = [abs(math.log(trial.settings["lr"] / rate)) for trial in trials]
        results = [TrainingResult("ok", **{"train": -loss, "validation": -loss, split: loss}) for loss in losses]
        return [replace(result, status="diverged") if k in diverging else result for k, result in enumerate(results)]

    growth = extended_ranges([contender()], split, 0, train)
    if not growth:
        return None
    bounds, times = growth["sgd"]
    return bounds.low, bounds.high, times


@pytest.mark.parametrize("best", [2, 3, 7, 12, 13])
def test_two_points_from_an_end_a_range_stays(best: int) -> None:
    assert extend(best) is None


@pytest.mark.parametrize("best", [0, 1])
def test_at_the_first_two_points_a_range_grows_downwards(best: int) -> None:
    growth = extend(best)
    assert growth is not None
    assert growth == (pytest.approx(1e-4), 1.0, 1)


@pytest.mark.parametrize("best", [14, 15])
def test_at_the_last_two_points_a_range_grows_upwards(best: int) -> None:
    growth = extend(best)
    assert growth is not None
    assert growth == (1e-3, pytest.approx(10.0), 1)


def test_a_training_that_did_not_end_well_is_never_the_best() -> None:
    assert extend(14, diverging=(14, 15)) is None  # the best training that ended well is at point 13
    growth = extend(2, diverging=(2, 3))
    assert growth is not None
    assert growth[0] == pytest.approx(1e-4)  # point 1


def test_the_split_that_selects_decides() -> None:
    for split in ("train", "validation"):
        assert extend(7, split=split) is None
