"""Runs: a training under way, of a single model or of a population.

Both have the same verbs (``step``, ``evaluate``), so one loop trains either. A seed decides the initial weights and the
order of the data, whatever the contender: trainings are paired by it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.external import set_training_mode
from thalweg.comparison.training.computation.batches import reseed_loaders
from thalweg.comparison.training.computation.group_means import GroupMeans, measure_in_groups
from thalweg.comparison.training.computation.line_search_steps import LineSearchSteps
from thalweg.comparison.training.computation.step_gradients import StepGradients, checked_loss, micro_batches
from thalweg.comparison.training.computation.work import CountWork, Work
from thalweg.engine.core import devices
from thalweg.optim import RuleOptimizer
from thalweg.tasks import Batch, Task

# Examples in a forward pass without gradients: more of them gain nothing, and convolutions fall out of the cache.
GROUP_SIZE = 256


@dataclass(frozen=True)
class Trial:
    """A training to be done.

    Attributes:
        settings: Settings that replace those the contender starts from.
        seed: Seed of the initial weights and of the order of the data.
    """

    settings: Settings
    seed: int


class Run(Protocol):
    """A training under way, of one model or of a population.

    Attributes:
        task: The task.
        members: Number of models in training.
    """

    task: Task
    members: int

    @property
    def device_type(self) -> str:
        """The type of the device that trains, such as ``cpu``."""

    @property
    def execution(self) -> str:
        """The words for the execution of steps on a device: graphs or eager; empty where there is no choice."""

    def advance(self, lr_factors: Sequence[float]) -> None:
        """Take one optimizer step for each factor, at this share of the learning rate.

        The host need not wait for the steps of a device: see ``synchronize``.
        """

    def step(self, lr_factor: float) -> None:
        """Take one optimizer step, at this share of the learning rate."""

    def synchronize(self) -> None:
        """Wait until the device has done all steps and evaluations so far."""

    def keep(self, members: Sequence[int]) -> None:
        """Continue with these members alone, at least one, in their order."""

    def evaluate(self, split: str) -> list[float]:
        """Return the measure on this split, for each member."""

    def evaluate_all(self, splits: Sequence[str]) -> list[list[float]]:
        """Return the measure on each split, for each member; the host waits for the device once."""

    def test(self) -> list[tuple[float, float]]:
        """Return the measure on the test split and its standard error over the examples, for each member."""

    def metrics(self) -> list[dict[str, float]]:
        """Return the task's further metrics on the test split by name, for each member."""


class SingleRun:
    """One model, trained as its owner would: backward, then the optimizer's step.

    A step counts evaluations of loss and gradient. An optimizer with a line search takes one iteration at a time, which
    may evaluate several times; then the next steps have been done already. So it sees the data as often as others.

    Args:
        task: The task.
        contender: The contender.
        trial: Settings and seed.

    Attributes:
        needs_closure: True if the optimizer calls the closure as often as it likes, as L-BFGS does.
        passes_closure: True if the optimizer's step takes a closure.
        steps_done: Number of steps so far.
        last_loss: The loss of the last step, before it; not a number before the first.
    """

    members = 1
    execution = ""

    def __init__(self, task: Task, contender: Contender, trial: Trial) -> None:
        self.task = task
        reseed_loaders(task, trial.seed)
        self.model = task.make_model(trial.seed)
        self.optimizer = contender.optimizer(self.model, trial.settings, task.roles)
        self.lrs = [group["lr"] for group in self.optimizer.param_groups]
        set_training_mode(self.optimizer, True)
        rule = contender.thalweg_rule
        self.needs_closure = rule is not None and rule.traits.needs == "closure"
        self.passes_closure = rule is not None and rule.traits.needs in ("second gradient", "closure")
        interval = rule.traits.curvature_interval if rule and rule.traits.needs == "curvature" else 0
        self._gradients = StepGradients(task, self.model, self.optimizer, interval)
        self.batches = micro_batches(task, trial.seed, full_batch=contender.full_batch)
        self._line_search: LineSearchSteps | None = None
        if self.needs_closure:
            assert isinstance(self.optimizer, RuleOptimizer)
            full_batch = None
            if contender.ends_on_full_batch:
                full_batch = next(micro_batches(task, trial.seed, full_batch=True))
            self._line_search = LineSearchSteps(self.optimizer, full_batch, task.batches_per_pass())
        self.steps_done = 0
        self.last_loss: Tensor | float = math.nan

    @property
    def device_type(self) -> str:
        return next(self.model.parameters()).device.type

    def advance(self, lr_factors: Sequence[float]) -> None:
        for lr_factor in lr_factors:
            self.step(lr_factor)

    def synchronize(self) -> None:
        devices.synchronize(next(self.model.parameters()).device)

    def step(self, lr_factor: float) -> None:
        if self._line_search is None or not self._line_search.is_ahead():
            self._take_step(lr_factor)
        self.steps_done += 1

    def _take_step(self, lr_factor: float) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * lr_factor
        self.model.train()
        if self._line_search is not None and self._line_search.is_next():
            self._line_search.take(self.batches, self._compute)
            return
        batches = next(self.batches)
        if self.passes_closure:
            self.optimizer.step(lambda: float(self._compute(batches)))
        else:
            self._compute(batches)
            self._gradients.take_step()

    def count_work(self) -> Work:
        """Return the work of the gradient on the next batch; no step is taken."""
        self.model.train()
        with CountWork() as counter:
            self._compute(next(self.batches))
        return counter.work

    def _compute(self, batches: Sequence[Batch]) -> Tensor:
        """Compute the gradients of a step; return the loss."""
        self.last_loss = loss = self._gradients.compute(batches, self.steps_done)
        return loss

    def keep(self, members: Sequence[int]) -> None:
        assert list(members) == [0]

    def evaluate(self, split: str) -> list[float]:
        return [float(self._measure(split).mean())]

    def evaluate_all(self, splits: Sequence[str]) -> list[list[float]]:
        return [self.evaluate(split) for split in splits]

    def test(self) -> list[tuple[float, float]]:
        groups = self._measure("test")
        return [(float(groups.mean()), float(groups.error()))]

    def metrics(self) -> list[dict[str, float]]:
        return [{name: float(self._measure("test", name).mean()) for name in self.task.metrics}]

    def _measure(self, split: str, metric: str = "") -> GroupMeans:
        self.model.eval()
        set_training_mode(self.optimizer, False)
        measure = self.task.measure(split, metric)

        def measured(batch: Batch) -> Tensor:
            with self.task.autocast(next(self.model.parameters()).device):
                value: Any = measure(self.model, batch)
            # A metric may come from another library as a number; only a differentiated loss must be a tensor.
            if split != "train" and isinstance(value, int | float | np.generic):
                value = torch.as_tensor(value)
            return checked_loss(self.task, value, None if measure is self.task.loss else measure).detach()

        grads = [param.grad for param in self.model.parameters()]
        name = metric or ("loss" if measure is self.task.loss else "metric")
        groups = self.task.evaluate(
            name, lambda: measure_in_groups(self.task, split, measured, GROUP_SIZE, metric, self.model)
        )
        for param, grad in zip(self.model.parameters(), grads, strict=True):
            param.grad = grad  # a measure that differentiates leaves none behind
        set_training_mode(self.optimizer, True)
        return groups
