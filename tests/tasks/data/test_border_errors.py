"""Data, models and losses that cannot train: the error names a line and a remedy."""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import thalweg
from tests.tasks.data.user_data import (
    BATCHES,
    COUNT,
    INPUTS,
    LABELS,
    EndlessStream,
    Rows,
    WithLogits,
    classifier,
    make_task,
    thrice,
    train,
)
from thalweg.errors import TaskError
from thalweg.tasks.data import loaders
from thalweg.tasks.supervised import supervised

USER_DATA = make_task.__code__.co_filename  # where most parts of tasks are
NLL = supervised(nn.NLLLoss())


class ExhaustedStream(IterableDataset):
    """A stream that yields its examples once."""

    def __init__(self) -> None:
        self._examples = zip(INPUTS, LABELS, strict=True)

    def __iter__(self) -> Iterator[Any]:
        return self._examples


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def of_two_tensors() -> nn.Module:
    class Two(WithLogits):
        def forward(self, inputs: torch.Tensor) -> Any:
            return self.inner(inputs), inputs

    return Two()


class NeedsWidth(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()


def loss_of_own(model: nn.Module, batch: Any) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


MSE = supervised(nn.MSELoss())
LOADER = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8)


@pytest.mark.parametrize(
    ("parts", "message", "remedy"),
    [
        ({"data": (INPUTS, LABELS + 0.5)}, r"class labels must be whole numbers, got .\.5 in a target", "dtype int64"),
        ({"data": (INPUTS, LABELS.float()), "loss": loss_of_own}, "got RuntimeError: expected", "pass labels.long()"),
        ({"data": (INPUTS, LABELS[:, None])}, r"one dimension less than the output .*\(24, 1\)", "labels.squeeze(1)"),
        ({"data": (INPUTS, LABELS + 1)}, "IndexError: Target 3 is out of bounds", "between 0 and the number"),
        (
            {"data": (INPUTS, LABELS), "loss": MSE, "model": lambda: nn.Linear(4, 1)},
            r"must have one shape for MSELoss, got \(24, 1\) and \(24,\)",
            "target.unsqueeze(1)",
        ),
        ({"data": (INPUTS.double(), LABELS)}, "got Double and Float", "pass data.float()"),
        ({"data": (INPUTS, LABELS), "model": lambda: classifier().double()}, "got Float and Double", "data.double()"),
        ({"data": (INPUTS.to(torch.uint8), LABELS)}, "got Byte and Float", "inputs.float() / 255"),
        ({"data": (INPUTS, INPUTS, LABELS)}, "takes 2 positional arguments but 3", "Write the loss as a function"),
        ({"data": {"x": INPUTS, "y": LABELS}}, "got a dict with the keys 'x', 'y'", "cross_entropy(model(batch['x'])"),
        ({"data": INPUTS}, "must hold inputs and a target, got 1 tensor", "model(batch[0]), batch[0])"),
        ({"model": of_two_tensors}, "a tensor, or an object with logits, got tuple with 2", "model(batch[0])[0]"),
        (
            {"model": of_two_tensors, "loss": loss_of_own},
            "argument 'input' .* must be Tensor, not tuple",
            "or model(batch[0])[0]",
        ),
        ({"model": NeedsWidth}, r"__init__\(\) missing 1 required", "lambda: Model(...)"),
        ({"data": (INPUTS[:55], LABELS[:55]), "model": batch_norm, "batch_size": 23}, "has 1 of 24 ex", "batch_size"),
        (
            {"data": thrice(DataLoader(TensorDataset(INPUTS, LABELS), batch_size=39)), "model": batch_norm},
            "which has 1 of 40 examples",
            "drop_last=True",
        ),
        ({"data": thrice(DataLoader(EndlessStream(), batch_size=8))}, "more than 50 batches", "method __len__"),
        ({"data": thrice(DataLoader(ExhaustedStream(), batch_size=8))}, "batches in each pass", "must begin anew"),
        ({"data": thrice(iter(BATCHES))}, "list_iterator, which can be read once", "Pass list"),
        ({"data": thrice(DataLoader(Rows(), batch_size=64, drop_last=True))}, "of length 0", "smaller batch_size"),
        ({"data": thrice([])}, "at least 1 batch, got list of length 0", "Pass more data"),
        ({"data": thrice(TensorDataset(INPUTS[:0], LABELS[:0]))}, r"got lengths \[0, 0\]", ""),
        ({"data": thrice([INPUTS, INPUTS])}, "a list of tensors, which may be either", "Pass a tuple"),
        ({"data": LOADER}, "got one DataLoader", "thalweg.Splits(train, validation, test)"),
        ({"data": (LOADER, LOADER)}, "got a tuple of DataLoader, DataLoader", "with None for a test set"),
        ({"data": None}, "hold inputs and a target, got a task without data", "Pass data to the task"),
        ({"data": (np.array([["a"]] * COUNT), LABELS)}, "part 0 of the whole split .* no numbers", "Encode text"),
        ({"data": ([[1.0], [1.0, 2.0]] * 20, LABELS)}, "rows of different lengths", "pad sequences"),
        ({"data": thrice([1.0, 2.0])}, "a loader must yield batches, .* got float", "DataLoader makes batches"),
        ({"data": lambda: 1 / 0}, "data must be readable, got ZeroDivisionError", ""),
        ({"loss": lambda model, batch: loss_of_own(model, batch).item()}, "0-d tensor, got float", "loss itself"),
        ({"loss": lambda model, batch: model(batch[0])}, r"0-d tensor, got shape \(24, 3\)", "Take the mean"),
        ({"metric": lambda model, batch: "0.3"}, "a metric must be a number or a 0-d tensor, got str", "the mean over"),
        ({"data": (INPUTS.half(), LABELS)}, "got Half and Float", "pass data.float()"),
        ({"data": (INPUTS.to(torch.complex64), LABELS)}, "got Complex", "torch.view_as_real(data)"),
        ({"data": (INPUTS.to_sparse(), LABELS)}, "data must be readable", "pass data.to_dense()"),
        ({"data": (INPUTS.short(), LABELS)}, "got Short and Float", "pass data.float()"),
        (
            {"data": (INPUTS, functional.one_hot(LABELS)), "loss": NLL},
            "multi-target not supported",
            "labels.argmax(1)",
        ),
    ],
    ids=map(str, range(36)),
)
def test_a_border_that_cannot_be_crossed_names_the_line_and_the_remedy(
    parts: dict[str, Any], message: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "MAX_COUNTED_BATCHES", 50)
    parts = {"data": (INPUTS, LABELS)} | parts

    def fail() -> None:
        result = train(make_task(**parts))
        assert result.status == "failed"
        raise TaskError(result.message)

    with pytest.raises(TaskError, match=message) as error:
        fail()
    text = str(error.value)
    assert remedy in text
    assert len(re.findall(rf"\(at ({re.escape(__file__)}|{re.escape(USER_DATA)}):\d+\)", text)) == 1


def test_the_line_is_that_of_the_part_at_fault() -> None:
    def wrong(model: nn.Module, batch: Any) -> torch.Tensor:
        return model(batch[0])

    task = make_task((INPUTS, LABELS), loss=wrong)
    line = wrong.__code__.co_firstlineno
    assert task.line_of("loss") == f"{__file__}:{line}"
    assert task.line_of("model") == f"{USER_DATA}:{classifier.__code__.co_firstlineno}"
    assert task.line_of("data") == task.made_at
    assert make_task(None).made_at == f"{USER_DATA}:{make_task.__code__.co_firstlineno + 1}"
    assert task.on("cpu").made_at == task.made_at  # where it was made, not where it was moved
    by_class = make_task(None, NeedsWidth)
    assert by_class.line_of("model").startswith(f"{__file__}:")


def test_a_task_is_described_without_its_tensors() -> None:
    text = repr(make_task((INPUTS, LABELS), name="mine"))
    assert text == (
        "Task('mine', model=classifier, loss=supervised(cross_entropy), data=(tensor (40, 4) float32, "
        "tensor (40,) int64), batch_size=8, passes=2)"
    )
    calls: list[int] = []
    lazy = make_task(lambda: calls.append(1), metric=loss_of_own, optimum=0.5, device="cpu")
    assert re.search(r"metric=loss_of_own, data=<lambda at .*:\d+>\(\), .*optimum=0.5, device='cpu'\)$", repr(lazy))
    assert not calls
    assert "data=BatchLoader" not in repr(make_task(thrice(LOADER)))
    assert "data=DataLoader of length 5 / DataLoader" in repr(make_task(thrice(LOADER)))
    function = thalweg.tasks.TrainingFunction(train=wrong_function, name="mine")
    assert repr(function) == f"TrainingFunction('mine', {__file__}:{wrong_function.__code__.co_firstlineno})"


def wrong_function(make_optimizer: Any, report: Any) -> None:
    report(math.nan)
