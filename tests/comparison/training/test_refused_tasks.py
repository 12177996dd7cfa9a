"""Tasks and training functions that cannot train are refused before the first trial, with the reason."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from tests.comparison.training.small_task import loaders, small
from thalweg.errors import TaskError
from thalweg.tasks import Splits

X, Y = torch.ones(20, 3), torch.ones(20, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": lambda model, batch: model(batch[0])}, r"the loss must be a 0-d tensor, got shape \(60, 1\)"),
        ({"loss": lambda model, batch: 3.0}, "the loss must be a 0-d tensor, got float"),
        ({"loss": lambda model, batch: model(batch[0]).mean() * math.nan}, "finite before the first step, got nan"),
        ({"model": lambda: nn.Linear(4, 1)}, "the task must train, got RuntimeError: mat1 and mat2 shapes"),
        (
            {"model": lambda: nn.Linear(3, 1) / 2},
            "the model function must run without an error, got TypeError: unsupported operand",
        ),
        ({"data": lambda: torch.load("/no/such/file")}, "data must be readable, got FileNotFoundError"),
        ({"data": Splits((X, Y), (X, Y), (X[:, :2], Y))}, "the task must train, got RuntimeError: mat1 and mat2"),
        (
            {"data": Splits((X, Y), (X, Y), (X * math.nan, Y))},
            "the test loss must be finite before the first step, got nan",
        ),
        ({"data": Splits(None, (X, Y), None)}, "the train split must hold data if another split does, got None"),
        (
            {"data": Splits(iter([]), (X, Y), (X, Y))},
            "the train loader must be readable many times, got list_iterator, which can be read once",
        ),
        (
            {"loss": lambda model, batch: (model(batch[0]) * 0).sqrt().mean()},
            "training loss must be finite after a first step of length zero, so the gradient is at fault, got nan",
        ),
    ],
)
def test_a_task_that_cannot_train_at_all_is_refused_before_the_first_trial(changes: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        thalweg.compare(small(**changes), ["sgd"], budget="1trial")


def test_gradient_descent_is_refused_where_there_is_no_full_batch() -> None:
    with pytest.raises(TaskError, match="gd needs all training data in one batch, got a DataLoader"):
        thalweg.compare(small(data=loaders), ["gd"], budget="1trial")
    with pytest.raises(TaskError, match="gd needs all training data in one batch, got a function that makes its own"):
        thalweg.compare(lambda make_optimizer, report: None, ["gd"], budget="1trial")


def test_a_function_that_always_raises_is_the_tasks_fault(tmp_path: Path) -> None:
    called = tmp_path / "called"  # a file, since trainings run in other processes

    def train(make_optimizer, report):
        if called.exists():  # the first training went well
            raise RuntimeError("my CSV is missing")
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(1.0)
        called.touch()

    with pytest.raises(TaskError, match=r"3 of 4 failed with RuntimeError: my CSV is missing .* should succeed fails"):
        thalweg.compare(train, ["sgd", "adam"], budget="4trials", workers=1)
    with pytest.raises(TaskError, match="train: .*RuntimeError: my CSV is missing"):
        thalweg.compare(train, ["sgd", "adam"], budget="4trials", workers=1)
