"""Run: a training with its length and its goal, the plain loop, and the numbers that say whether it works."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.tasks import Training

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Any, Tensor], Tensor]


@dataclass
class Run:
    """A training that has not begun, and when it works.

    Attributes:
        training: The training, as a diagnosis gets it.
        goal: The metric from which on it works.
        steps: The number of its steps.
    """

    training: Training
    goal: float
    steps: int


def plain_step(training: Training, *batch: Any) -> Tensor:
    """Zero the gradients, compute the loss, go backward and step."""
    *inputs, target = batch
    training.optimizer.zero_grad()
    loss = training.loss_fn(training.model(*inputs), target)
    loss.backward()
    training.optimizer.step()
    return loss.detach()


def scheduled_each_step(run: Run, schedule: torch.optim.lr_scheduler.LRScheduler) -> Run:
    """Return the run with plain steps, after each of which the schedule makes one."""

    def step(training: Training, x: Tensor, y: Tensor) -> Tensor:
        loss = plain_step(training, x, y)
        schedule.step()
        return loss

    run.training.step = step
    return run


def endless(batches: Any) -> Iterator[Any]:
    """Return the batches of an iterable, which is begun again at its end."""
    iterator = iter(batches)
    while True:
        count = 0
        for batch in iterator:
            count += 1
            yield batch
        if not count:
            return
        iterator = iter(batches)


def train(run: Run, steps: int | None = None) -> list[float]:
    """Train to the end and return the loss of each step."""
    training = run.training
    step, batches = training.step or plain_step, endless(training.batches)
    losses = (step(training, *next(batches)) for _ in range(run.steps if steps is None else steps))
    return [torch.as_tensor(loss).detach().item() for loss in losses]  # a step may return a loss with its graph


def evaluated(score: Callable[[nn.Module], float]) -> Callable[[nn.Module], float]:
    """Return a score in evaluation mode and without gradients; minus infinity if it is not finite."""

    def metric(model: nn.Module) -> float:
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with torch.no_grad():
                value = float(score(model))
        finally:
            for module, mode in modes.items():
                module.training = mode
        return value if math.isfinite(value) else -math.inf

    return metric


def measured(run: Run) -> float:
    """Return the metric of a run."""
    assert run.training.metric is not None
    return run.training.metric(run.training.model)
