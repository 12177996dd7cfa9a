"""A training loop as people write them, a task with a number of its own, and their comparison."""

from typing import Any

import torch
from torch import nn

import thalweg
from thalweg.comparison.results.records import TrialRecord

X = torch.linspace(-1, 1, 16).unsqueeze(1)
STEPS = 6


def loss_of(model: nn.Module) -> torch.Tensor:
    return (model(X) - 2 * X).square().mean()


def take_step(model: nn.Module, *optimizers: Any) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss_of(model).backward()
    for optimizer in optimizers:
        optimizer.step()


def compare(train: Any, contenders: Any = ("sgd", "momentum"), budget: str = "5trials", **options: Any) -> Any:
    return thalweg.compare(train, list(contenders), budget=budget, workers=1, **options)


def trials(comparison: Any, stage: str = "search") -> list[TrialRecord]:
    return comparison.store.trials(comparison.record.id, stage)


def make_model(width: int = thalweg.choice(2, 4)) -> nn.Module:
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))


def own_task(**parts: Any) -> thalweg.Task:
    inputs = torch.linspace(-1, 1, 40).unsqueeze(1)
    loss = thalweg.supervised(nn.functional.mse_loss)
    return thalweg.Task(model=make_model, loss=loss, data=(inputs, 2 * inputs), passes=2, **parts)
