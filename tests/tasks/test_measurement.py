"""What a task measures: numbers of all kinds, direction, name, and splits that have no data of their own."""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thalweg
from thalweg.errors import TaskError
from thalweg.tasks import Batch, Splits, Task, TrainingFunction
from thalweg.tasks.measurement import as_number, best_index, with_article

INPUTS = torch.linspace(-1, 1, 40)[:, None]


def accuracy(model: nn.Module, batch: Batch) -> Tensor:
    inputs, targets = batch
    return ((model(inputs) > 0) == (targets > 0)).float().mean()


def line(**options: Any) -> Task:
    values: dict[str, Any] = {
        "model": lambda: nn.Linear(1, 1),
        "loss": thalweg.supervised(nn.functional.mse_loss),
        "data": (INPUTS, 3 * INPUTS),
        "passes": 1,
        "name": "line",
    }
    return Task(**values | options)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, 2.0),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3.0),
        (np.array([[0.25]]), 0.25),
        (np.bool_(True), 1.0),
        (torch.tensor(1.5), 1.5),
        (torch.ones(1, 1, requires_grad=True), 1.0),
        (torch.ones(1, requires_grad=True) * 2, 2.0),
        (torch.tensor(True), 1.0),
        (torch.tensor([3], dtype=torch.int32), 3.0),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (nn.Parameter(torch.tensor(4.0)), 4.0),
        (Decimal("0.5"), 0.5),
        (-math.inf, -math.inf),
    ],
)
def test_numbers_of_all_kinds_are_read(value: Any, expected: float) -> None:
    number = as_number(value, "the value")
    assert type(number) is float
    assert number == expected


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("0.93", "'0.93'"),
        (None, "None"),
        (1j, "1j"),
        (torch.ones(3), "a tensor of shape (3,)"),
        (torch.empty(0), "a tensor of shape (0,)"),
        (torch.tensor(1j), "1j"),
        (np.ones((2, 2)), "an array of shape (2, 2)"),
        ([0.5], "list [0.5]"),
        ({"loss": 1.0}, "dict {'loss': 1.0}"),
        (10**400, f"int {10**400!r:.80}"),
    ],
)
def test_anything_else_is_refused_with_the_line(value: Any, got: str) -> None:
    with pytest.raises(TaskError) as caught:
        as_number(value, "test")
    here = Path(__file__)
    message = str(caught.value)
    assert message.startswith(f"report: test must be a single number, got {got} (at {here}:"), message


def test_a_name_gets_its_article() -> None:
    names = ["loss", "accuracy", "AUC", "MSE", "PSNR", "R2 score", "mAP", "error", "1-accuracy"]
    articles = [with_article(name).partition(" ")[0] for name in names]
    assert articles == ["a", "an", "an", "an", "a", "an", "a", "an", "a"]


def test_the_best_of_values_is_the_first_of_equals_and_finite() -> None:
    assert best_index([3.0, 1.0, math.nan, 1.0], maximize=False) == 1
    assert best_index([3.0, 1.0, math.inf, 3.0], maximize=True) == 0
    assert best_index([math.nan, math.nan], maximize=True) == 1


def test_a_metric_is_maximized_if_the_task_says_so() -> None:
    task = line(metric=accuracy, maximize=True)
    assert task.measured_as("test") == "test accuracy"
    assert task.measured_as("train") == "training loss"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maximize": True}, "line: maximize=True needs a metric that decides, got no metric"),
        ({"maximize": True, "metric": accuracy, "optimum": 0.0}, "got an optimum, for which the training loss decides"),
        ({"maximize": "yes"}, "line: maximize must be True or False, got 'yes' (at "),
        ({"result": "first"}, "line: result must be 'last' or 'best', got 'first' (at "),
        ({"scale": "ratio"}, "line: scale must be 'log' or 'linear', got 'ratio' (at "),
        ({"metrics": {"accuracy": 0.5}}, "line: metrics must map names to functions, got 'accuracy': 0.5"),
        ({"metric_name": accuracy}, "line: metric_name must be a text, got"),
    ],
)
def test_measurements_that_contradict_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError) as caught:
        line(**options)
    assert message in str(caught.value)


def test_a_training_function_has_a_name_and_a_direction() -> None:
    def train(make_optimizer: Any, report: Any) -> None: ...

    assert TrainingFunction(train=train).measured_as("test") == "reported value"
    named = TrainingFunction(train=train, metric_name="accuracy", maximize=True, result="best")
    assert named.measured_as("test") == named.measured_as("validation") == "accuracy"
    with pytest.raises(TaskError, match="train: maximize must be True or False, got 1"):
        TrainingFunction(train=train, maximize=1)  # type: ignore[arg-type]


DATA = tuple((INPUTS[part], INPUTS[part]) for part in (slice(0, 20), slice(20, 30), slice(30, 40)))


@pytest.mark.parametrize(
    ("splits", "measured", "sources"),
    [
        (Splits(DATA[0], DATA[1], DATA[2]), ["training loss", "validation loss", "test loss"], {}),
        (Splits(DATA[0], DATA[1]), ["training loss", "validation loss", "validation loss"], {"test": "validation"}),
        (
            Splits(DATA[0]),
            ["training loss", "training loss", "training loss"],
            {"validation": "train", "test": "train"},
        ),
        (
            Splits(DATA[0], None, DATA[2]),
            ["training loss", "training loss", "test loss"],
            {"validation": "train"},
        ),
        (None, ["training loss", "validation loss", "test loss"], {}),
    ],
)
def test_a_split_without_data_is_another_one_and_named_after_it(
    splits: Splits | None, measured: list[str], sources: dict[str, str]
) -> None:
    task = line(data=splits)
    names = ("train", "validation", "test")
    assert [task.measured_as(split) for split in names] == measured
    assert {split: task.source_of(split) for split in names if task.source_of(split) != split} == sources
    assert [task.on("cpu").measured_as(split) for split in names] == measured


def test_data_to_evaluate_on_need_data_to_train_on() -> None:
    with pytest.raises(TaskError, match=r"line: the train split must hold data if another split does, got None"):
        _ = line(data=Splits(None, DATA[1], DATA[2])).splits
