"""Data, models and a task as people bring them, and its training."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset

from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.task_fingerprint import fingerprint_of_task
from thalweg.comparison.training.workload import as_workload
from thalweg.tasks import Splits, Task
from thalweg.tasks.supervised import supervised

COUNT = 40
INPUTS = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(COUNT) % 3
ARRAY = INPUTS.double().numpy()  # the same numbers as float64
CROSS_ENTROPY = supervised(functional.cross_entropy)


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def train(task: Task) -> TrainingResult:
    """Return the result of two passes, after the checks that a comparison begins with."""
    fingerprint_of_task(task)
    workload = as_workload(task)
    contender = parse("adamw")
    (result,) = workload.train(contender, [Trial({"lr": 0.01}, 1)], workload.training_schedule(contender, "linear"))
    return result


def make_task(data: Any, model: Callable[[], nn.Module] = classifier, loss: Any = CROSS_ENTROPY, **parts: Any) -> Task:
    return Task(**{"model": model, "loss": loss, "data": data, "batch_size": 8, "passes": 2, **parts})


@functools.cache
def reference() -> TrainingResult:
    return train(make_task((INPUTS, LABELS)))


class Rows(Dataset):
    """A dataset of the user's: examples are tuples of a tensor and a number."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return INPUTS[index], int(LABELS[index])


class WithLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = classifier()

    def forward(self, inputs: torch.Tensor) -> Any:
        return type("Output", (), {"logits": self.inner(inputs), "hidden": inputs})()


class EndlessStream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from zip(INPUTS, LABELS, strict=True)


def thrice(split: Any) -> Splits:
    return Splits(split, split, split)


BATCHES = list(zip(INPUTS.split(8), LABELS.split(8), strict=True))
