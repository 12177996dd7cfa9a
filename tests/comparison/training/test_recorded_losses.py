"""Records of a training: the split, the report and the number of examples of each loss."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.trainer import run_function
from thalweg.comparison.training.workload import as_workload
from thalweg.tasks import Splits, TrainingFunction

SCHEDULE = TrainingSchedule(4, "constant", 2)


class ConstantModel(nn.Module):
    """A parameter that never changes: its gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0 * self.number


def mean_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return output.mean()


def constant_task(test: torch.Tensor) -> thalweg.Task:
    """Return a task whose loss is the mean of the inputs: 1 in training, 2 in validation."""
    splits = Splits(*((x, x) for x in (torch.full((8, 1), 1.0), torch.full((8, 1), 2.0), test)))
    return thalweg.Task(model=ConstantModel, loss=thalweg.supervised(mean_of), data=splits, passes=1)


@pytest.mark.parametrize("members", [1, 3])
def test_each_split_is_recorded_under_its_name(members: int) -> None:
    trials = [Trial({"lr": 0.1}, seed) for seed in range(members)]
    for result in as_workload(constant_task(torch.full((8, 1), 3.0))).train(CONTENDERS["sgd"], trials, SCHEDULE):
        assert (result.status, result.train, result.validation, result.test) == ("ok", 1.0, 2.0, 3.0)
        assert [(evaluation.step, evaluation.train, evaluation.validation) for evaluation in result.evaluations] == [
            (0, 1.0, 2.0),
            (2, 1.0, 2.0),
            (4, 1.0, 2.0),
        ]


@pytest.mark.parametrize("members", [1, 3])
def test_the_test_is_a_mean_over_examples_and_its_error_one_of_a_mean(members: int) -> None:
    # 50 examples come in 24 groups of 2 and one of 2: 0 and 10 in turn would hide the spread, so they come in pairs.
    values = torch.tensor([[0.0], [0.0], [10.0], [10.0]] * 12 + [[5.0], [5.0]])
    trials = [Trial({"lr": 0.1}, seed) for seed in range(members)]
    for result in as_workload(constant_task(values)).train(CONTENDERS["sgd"], trials, SCHEDULE):
        assert result.test == pytest.approx(5.0)
        # 25 groups, of which 24 are 5 away from the mean: √(24 · 25 / 25 / 24) = 1.
        assert result.test_error == pytest.approx(1.0)


def test_a_smaller_last_group_counts_less() -> None:
    # 49 examples: 24 groups of 2 at 0, and a last one of 1 at 49.
    values = torch.tensor([[0.0]] * 48 + [[49.0]])
    (result,) = as_workload(constant_task(values)).train(CONTENDERS["sgd"], [Trial({"lr": 0.1}, 0)], SCHEDULE)
    assert result.test == pytest.approx(1.0)
    # Weights 2/49 and 1/49: √((24 · 2/49 · 1² + 1/49 · 48²) / 24).
    assert result.test_error == pytest.approx(math.sqrt((48 / 49 + 48**2 / 49) / 24))


def train_on_reports(*reports: tuple[float, float | None]) -> Any:
    """Return the result of a function that reports these values, each with its test value."""

    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        make_optimizer([nn.Parameter(torch.ones(1))])
        for value, test in reports:
            report(value, test=test)

    return run_function(TrainingFunction(train=train, name="f"), CONTENDERS["sgd"], Trial({}, 0))


def test_a_function_counts_with_its_last_report() -> None:
    result = train_on_reports((3.0, 30.0), (1.0, 10.0), (2.0, 20.0))
    assert (result.status, result.validation, result.test) == ("ok", 2.0, 20.0)
    assert [evaluation.step for evaluation in result.evaluations] == [1, 2, 3]
    assert train_on_reports((3.0, None), (2.0, None)).test == 2.0
    assert train_on_reports((3.0, 1.0), (2.0, math.nan)).status == "diverged"
    assert train_on_reports((3.0, 1.0), (math.inf, 1.0)).status == "diverged"


class Growing(nn.Module):
    """A model whose output grows by a factor at the first step."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(self.number == 0, x, x * self.factor) + 0.01 * self.number


@pytest.mark.parametrize(("factor", "status"), [(9.0, "ok"), (11.0, "diverged")])
def test_a_loss_that_grew_tenfold_has_diverged(factor: float, status: str) -> None:
    class Grown(Growing):
        pass

    Grown.factor = factor
    x = torch.ones(8, 1)
    task = thalweg.Task(model=Grown, loss=thalweg.supervised(mean_of), data=Splits((x, x), (x, x), (x, x)), passes=1)
    (result,) = as_workload(task).train(CONTENDERS["sgd"], [Trial({"lr": 0.1}, 0)], SCHEDULE)
    first, last = result.evaluations[0].train, result.evaluations[-1].train
    assert last / first == pytest.approx(factor, rel=0.01)
    assert result.status == status
