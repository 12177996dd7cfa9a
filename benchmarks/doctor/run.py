"""Run: a training in the parts that a diagnosis gets, the plain loop, and the numbers that say whether it works."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Any, Tensor], Tensor]
Step = Callable[["Run", Tensor, Tensor], Tensor]


@dataclass
class Run:
    """A training that has not begun.

    Attributes:
        model: The model.
        optimizer: Its optimizer.
        batches: An endless iterator of inputs and targets.
        loss_fn: The loss of outputs and targets, a scalar.
        metric: What the user wants, of the model on held-out data; higher is better.
        goal: The metric from which on the training works.
        steps: The number of steps.
        step: The user's own step, which returns the loss; None for the plain one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterator[Batch]
    loss_fn: Loss
    metric: Callable[[nn.Module], float]
    goal: float
    steps: int
    step: Step | None = None


def plain_step(run: Run, x: Tensor, y: Tensor) -> Tensor:
    """Zero the gradients, compute the loss, go backward and step."""
    run.optimizer.zero_grad()
    loss = run.loss_fn(run.model(x), y)
    loss.backward()
    run.optimizer.step()
    return loss.detach()


def train(run: Run, steps: int | None = None) -> list[float]:
    """Train to the end and return the loss of each step."""
    step = run.step or plain_step
    return [float(step(run, *next(run.batches))) for _ in range(run.steps if steps is None else steps)]


def measured(run: Run) -> float:
    """Return the metric of the model in evaluation mode; minus infinity if it is not finite."""
    mode = run.model.training
    run.model.eval()
    try:
        with torch.no_grad():
            value = float(run.metric(run.model))
    finally:
        run.model.train(mode)
    return value if math.isfinite(value) else -math.inf
