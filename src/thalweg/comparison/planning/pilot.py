"""Pilot: how fast each contender trains, one by one and as a population, measured before anything is planned."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.protocol.score_scale import ScoreScale, scale_for
from thalweg.comparison.training.runs import PopulationRun, Run, SingleRun, Trial, why_not_population
from thalweg.comparison.training.trainer import run_function
from thalweg.errors import TaskError
from thalweg.optim import RuleOptimizer
from thalweg.tasks import Task, TrainingFunction, seeded
from thalweg.tasks.task import raise_task_errors

POPULATIONS = (8, 32, 128)  # members trained together: two sizes tell the time, a third is for small models
LARGEST_STACKED = 2_000_000  # parameters of a model; beyond that, stacking 32 of them takes gigabytes and wins nothing
STACKED_NUMBERS = 8_000_000  # numbers in a stack of the largest size
WORTH_GROWING = 0.8  # the time of a member must shrink to this share
CLEARLY_FASTER = 2.0
PILOT_S = 0.15  # for each measurement
UPDATE_S = 0.03  # for that of an optimizer's own step
_NOT_ENOUGH = "a population would be {:.1f}x as fast, not enough to matter"


@dataclass(frozen=True)
class ExecutionMode:
    """How one contender's trainings are run, and why. A population of n takes `fixed_s + n * member_s`."""

    members: int
    fixed_s: float
    member_s: float
    reason: str

    def seconds(self, trainings: int) -> float:
        """The predicted time of so many trainings."""
        return math.ceil(trainings / self.members) * self.fixed_s + trainings * self.member_s


def measure(
    task: Task, contender: Contender, schedule: TrainingSchedule, seed: int
) -> tuple[ExecutionMode, dict[str, float]]:
    """Time a training one by one and as a population: the way, and what is measured before the first step, by split.

    A population must be clearly faster: near a tie the clock would decide, differently each time, and the two ways
    round sums differently, so that results would not repeat.
    """
    trial = Trial({}, seed)
    with seeded(seed):
        with raise_task_errors(f"{task.name}: the task must train"):
            single = SingleRun(task, contender, trial)
            buffers = {name: buffer.clone() for name, buffer in single.model.named_buffers()}
            untrained = check_losses(task, single, "before the first step,", ("train", "validation", "test"))
            alone_step_s = time_of_step(single)
            alone_s = time_of_training(single, schedule, alone_step_s)
            check_losses(task, single, "after a first step of length zero, so the gradient is at fault,", ("train",))
        reason = why_not_population(task, contender, single.model)
        if any(not torch.equal(buffers.get(name, buffer), buffer) for name, buffer in single.model.named_buffers()):
            reason = "the model changes its buffers as it trains"
        numel = sum(param.numel() for param in single.model.parameters())
        if numel > LARGEST_STACKED:
            reason = reason or "the model is too large to stack"
        if reason is not None:
            return ExecutionMode(1, 0.0, alone_s, f"one by one: {reason}"), untrained
        try:
            few, many = POPULATIONS[0], POPULATIONS[1]
            small = PopulationRun(task, contender, [trial] * few)
            few_step_s = time_of_step(small)
            if few_step_s > 2 * few * alone_step_s:
                # No larger population would make up for that, and a large one of a large model takes long to try.
                return ExecutionMode(1, 0.0, alone_s, "one by one: a population is slower here"), untrained
            few_s = time_of_training(small, schedule, few_step_s)
            large = PopulationRun(task, contender, [trial] * many)
            many_step_s = time_of_step(large)
            if many_step_s > many * alone_step_s / CLEARLY_FASTER:  # a look may take long: it is not needed any more
                gain = many * alone_step_s / many_step_s
                return ExecutionMode(1, 0.0, alone_s, f"one by one: {_NOT_ENOUGH.format(gain)}"), untrained
            many_s = time_of_training(large, schedule, many_step_s)
            most = POPULATIONS[2]
            if numel * most <= STACKED_NUMBERS:
                largest = PopulationRun(task, contender, [trial] * most)
                most_s = time_of_training(largest, schedule, time_of_step(largest))
                if most_s / most < WORTH_GROWING * many_s / many:
                    (few, few_s), (many, many_s) = (many, many_s), (most, most_s)
        except Exception as error:  # vmap refuses in many ways: the model then trains one by one
            summary = str(error).partition("\n")[0][:120]
            reason = f"vmap cannot take the model ({type(error).__name__}: {summary})"
            return ExecutionMode(1, 0.0, alone_s, f"one by one: {reason}"), untrained
    gain = alone_s * many / many_s
    if gain < CLEARLY_FASTER:
        return ExecutionMode(1, 0.0, alone_s, f"one by one: {_NOT_ENOUGH.format(gain)}"), untrained
    member_s = max(0.0, (many_s - few_s) / (many - few))
    reason = f"population of {many} under vmap: {gain:.1f}x as fast here"
    return ExecutionMode(many, many_s - many * member_s, member_s, reason), untrained


def check_losses(task: Task, run: Run, when: str, splits: Sequence[str]) -> dict[str, float]:
    """What is measured on these splits; raises TaskError unless it is finite."""
    found = {}
    for split in splits:
        (found[split],) = run.evaluate(split)
        if not math.isfinite(found[split]):
            raise TaskError(
                f"{task.name}: the {task.measured_as(split)} must be finite {when} got {found[split]}. "
                "Look at the data, the initial weights, the scale of the inputs and the loss function."
            )
    return found


def measure_function(task: TrainingFunction, contender: Contender, seed: int) -> tuple[ExecutionMode, ScoreScale, int]:
    """Time a user's training function by calling it once, and count its reports, which stand for its steps.

    Ten times its first report counts as untrained.
    """
    with seeded(seed), raise_task_errors(f"{task.name}: the function must train"):
        result = run_function(task, contender, Trial({}, seed))
    first = next((look.validation for look in result.looks if math.isfinite(look.validation)), 1.0)
    untrained = dict.fromkeys(("train", "validation", "test"), first + 9 * abs(first))
    mode = ExecutionMode(1, 0.0, result.seconds, "one by one: a training function of the user's")
    return mode, scale_for(untrained, own_metric=False), len(result.looks)


def time_of_update(task: Task, contender: Contender, seed: int) -> float:
    """The seconds that the optimizer's own step takes on the task's model, one by one, at ready gradients."""
    with seeded(seed), raise_task_errors(f"{task.name}: the task must train with {contender.name}"):
        single = SingleRun(task, contender, Trial({}, seed))
        if isinstance(single.optimizer, RuleOptimizer):
            single.optimizer.prepare()
        for group in single.optimizer.param_groups:
            group["lr"] = 0.0
        single.step(0.0)
        if not single.calls_closures:
            return seconds_of(single.optimizer.step, UPDATE_S)
        params = [param for group in single.optimizer.param_groups for param in group["params"]]
        grads = [param.grad for param in params]

        def at_hand() -> float:
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            return 1.0

        return seconds_of(lambda: single.optimizer.step(at_hand), UPDATE_S)


def time_of_step(run: Run) -> float:
    """The seconds of a step, the first left out."""
    lr_factor = 1.0 if isinstance(run, SingleRun) and run.iterates else 0.0  # where nothing moves a search ends at once
    run.step(lr_factor)
    return seconds_of(lambda: run.step(lr_factor))


def time_of_training(run: Run, schedule: TrainingSchedule, step_s: float) -> float:
    """The predicted seconds of a whole training, from those of a step and of a look."""
    look_s = seconds_of(lambda: (run.evaluate("train"), run.evaluate("validation")))
    return schedule.steps * step_s + len(schedule.evaluation_steps()) * look_s


def seconds_of(action: Callable[[], Any], moment_s: float = PILOT_S) -> float:
    """The median seconds of an action, over as many calls as fit a moment.

    One call that the machine held up must not decide: a slow action is called three times if that is soon done.
    """
    taken: list[float] = []
    while not taken or sum(taken) < moment_s or (len(taken) < 3 and sum(taken) < 10 * moment_s):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return median(taken)
