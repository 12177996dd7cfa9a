"""Runs: a training under way, of a single model or of a population.

Both have the same verbs (``step``, ``evaluate``), so one loop trains either. A seed decides the initial weights and the
order of the data, whatever the contender: trainings are paired by it.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from thalweg.comparison.contenders.contender import Contender, Settings
from thalweg.comparison.contenders.external import set_training_mode
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.batches import batches, reseed_loaders
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.comparison.training.group_means import GroupMeans, measure_in_groups
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.engine.core import devices
from thalweg.optim import RuleOptimizer
from thalweg.tasks import Batch, Task
from thalweg.tasks.tuning import task_at
from thalweg.tasks.user_code import task_error

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

    Args:
        task: The task.
        contender: The contender.
        trial: Settings and seed.

    Attributes:
        needs_closure: True if the optimizer calls the closure as often as it likes, as L-BFGS does.
        passes_closure: True if the optimizer's step takes a closure.
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
        self.curvature_interval = rule.traits.curvature_interval if rule and rule.traits.needs == "curvature" else 0
        self.batches = batches(task, trial.seed, full_batch=contender.full_batch)
        self.steps_done = 0

    @property
    def device_type(self) -> str:
        return next(self.model.parameters()).device.type

    def advance(self, lr_factors: Sequence[float]) -> None:
        for lr_factor in lr_factors:
            self.step(lr_factor)

    def synchronize(self) -> None:
        devices.synchronize(next(self.model.parameters()).device)

    def step(self, lr_factor: float) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * lr_factor
        self.model.train()
        batch = next(self.batches)
        if self.passes_closure:
            self.optimizer.step(lambda: float(self._backward(batch)))
        else:
            self._backward(batch)
            self.optimizer.step()
        self.steps_done += 1

    def _backward(self, batch: Batch) -> Tensor:
        """Compute the gradients of a batch, and its curvature where that is due; return the loss."""
        self.optimizer.zero_grad()
        loss = checked_loss(self.task, self.task.loss(self.model, batch))
        if self.curvature_interval and self.steps_done % self.curvature_interval == 0:
            assert isinstance(self.optimizer, RuleOptimizer)
            self.optimizer.estimate_curvature(loss)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

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

    @torch.no_grad()
    def _measure(self, split: str, metric: str = "") -> GroupMeans:
        self.model.eval()
        set_training_mode(self.optimizer, False)
        measure = self.task.measure(split, metric)

        def measured(batch: Batch) -> Tensor:
            value: Any = measure(self.model, batch)
            # A metric may come from another library as a number; only a differentiated loss must be a tensor.
            if split != "train" and isinstance(value, int | float | np.generic):
                value = torch.as_tensor(value)
            return checked_loss(self.task, value)

        groups = measure_in_groups(self.task, split, measured, GROUP_SIZE)
        set_training_mode(self.optimizer, True)
        return groups


def checked_loss(task: Task, loss: Any) -> Tensor:
    """Return the loss; raise TaskError unless it is a 0-d tensor."""
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise task_error(
            task.name,
            "the loss must be a 0-d tensor",
            got,
            "Take the mean over the batch."
            if isinstance(loss, Tensor)
            else "Return the loss itself, no copy as a number.",
            where=task.line_of("loss"),
        )
    return loss


@dataclass(frozen=True)
class Part:
    """Trials that share the values of the task's tuned numbers, and how they train.

    Attributes:
        task: The task at these values.
        contenders: The contender of each trial.
        trials: Settings and seeds.
        schedule: Length of a training at these values.
        rungs: Points at which trainings are pruned, in its steps.
    """

    task: Task
    contenders: list[Contender]
    trials: list[Trial]
    schedule: TrainingSchedule
    rungs: Rungs | None


def train_by_values(
    task: Task,
    contenders: Contender | Sequence[Contender],
    trials: Sequence[Trial],
    schedule: TrainingSchedule,
    rungs: Rungs | None,
    train: Callable[[Part], list[TrainingResult]],
) -> list[TrainingResult]:
    """Train trials in parts that share the values of the task's tuned numbers.

    Evaluations and rungs are counted in batches of the default size, as if all trainings had these.

    Args:
        task: The task at the defaults of its numbers.
        contenders: One contender for all trials, or one for each.
        trials: Settings and seeds.
        schedule: Length of a training at these defaults.
        rungs: Points at which trainings are pruned, in steps of this length.
        train: Trains the trials of one part together.

    Returns:
        One result for each trial, in order.
    """
    contenders = [contenders] * len(trials) if isinstance(contenders, Contender) else contenders
    parts: dict[Hashable, list[int]] = {}
    for place, (contender, trial) in enumerate(zip(contenders, trials, strict=True)):
        parts.setdefault(tuple(contender.task_values(trial.settings).items()), []).append(place)
    results: dict[int, TrainingResult] = {}
    for places in parts.values():
        part_contenders, part_trials = [contenders[k] for k in places], [trials[k] for k in places]
        contender = part_contenders[0]
        part_task = task_at(task, contender.task_values(part_trials[0].settings))
        per_pass = part_task.batches_per_pass(full_batch=contender.full_batch)
        ratio = per_pass / task.batches_per_pass(full_batch=contender.full_batch)
        steps = schedule.steps
        if (part_task.passes, ratio) != (task.passes, 1.0):
            steps = part_task.passes * per_pass
        part = Part(part_task, part_contenders, part_trials, replace(schedule, steps=steps), _in_steps_of(rungs, ratio))
        for place, result in zip(places, train(part), strict=True):
            evaluations = [replace(each, step=round(each.step / ratio)) for each in result.evaluations]
            uses = [OptimizerUse(schedule_steps=steps)] if contender.task_settings else []
            results[place] = replace(result, evaluations=evaluations, optimizers=uses)
            rungs = rungs and rungs.with_training(evaluations)
    return [results[place] for place in range(len(trials))]


def _in_steps_of(rungs: Rungs | None, ratio: float) -> Rungs | None:
    """Return rungs for trainings that take this many steps for each of the task's at its defaults."""
    if rungs is None or ratio == 1.0:
        return rungs
    return replace(
        rungs, earlier_losses={max(1, round(step * ratio)): losses for step, losses in rungs.earlier_losses.items()}
    )
