"""Small trainings for tests of inspection: data, models and steps, made from a fixed seed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg import Training
from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.inspection import inspect

FEATURES, CLASSES, BATCH, COUNT = 8, 3, 32, 6
Batches = list[tuple[Any, ...]]


def classes(count: int = COUNT, size: int = BATCH) -> Batches:
    """Return batches of inputs and of classes that depend on them."""
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(FEATURES, CLASSES, generator=generator)
    inputs = [torch.randn(size, FEATURES, generator=generator) for _ in range(count)]
    return [(x, (x @ plane).argmax(1)) for x in inputs]


def values(count: int = COUNT, size: int = BATCH) -> Batches:
    """Return batches of inputs and of targets of shape (batch, 1), with mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(FEATURES, 1, generator=generator) / FEATURES**0.5
    inputs = [torch.randn(size, FEATURES, generator=generator) for _ in range(count)]
    return [(x, x @ plane) for x in inputs]


def answers(count: int = COUNT, size: int = BATCH) -> Batches:
    """Return batches of inputs and of targets 0 and 1, of shape (batch, 1)."""
    return [(x, (y > 0).float()) for x, y in values(count, size)]


def network(outputs: int = CLASSES, *end: nn.Module, width: int = 16) -> nn.Sequential:
    """Return two hidden layers, an output layer, named 4, and what follows it."""
    torch.manual_seed(0)
    layers = [nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)]
    return nn.Sequential(*layers, *end)


def training(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    loss_fn: Callable[..., Any] = functional.cross_entropy,
    optimizer: Any = None,
    step: Callable[..., Any] | None = None,
) -> Training:
    """Return a training; with SGD and batches of classes if nothing else is given."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05) if optimizer is None else optimizer
    return Training(model, optimizer, classes() if batches is None else batches, loss_fn, step)


def inspected(subject: Training, batches: Sequence[tuple[Any, ...]] | None = None) -> list[Clue]:
    """Return the clues about a training."""
    return inspect(subject, list(subject.batches) if batches is None else batches)


def named(subject: Training) -> list[tuple[str, str, str | None]]:
    """Return kind, certainty and place of each clue about a training."""
    return [(clue.kind, clue.certainty, clue.where) for clue in inspected(subject)]


def plain_step(subject: Training, x: Tensor, y: Tensor) -> Tensor:
    """Take a plain step, written by the user."""
    subject.optimizer.zero_grad()
    loss = subject.loss_fn(subject.model(x), y)
    loss.backward()
    subject.optimizer.step()
    return loss.detach()
