"""Timing: the speed of a contender's trainings, one by one and in a population, from short samples.

The learning rate is zero meanwhile, so that the samples neither help nor hurt.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.computation.work import COUNTED, Work, counted_members, nominal_seconds
from thalweg.comparison.training.functions.reports import check_direction
from thalweg.comparison.training.population_run import PopulationRun, why_not_population
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Run, SingleRun, Trial
from thalweg.comparison.training.stopwatch import MEASUREMENT_S, seconds_of
from thalweg.engine.core import devices
from thalweg.engine.core.threads import num_cores
from thalweg.errors import TaskError
from thalweg.optim import RuleOptimizer
from thalweg.tasks import Task, seeded
from thalweg.tasks.reproducibility.isolation import isolated
from thalweg.tasks.user_code import raise_task_errors, task_error

POPULATIONS = (8, 32, 128)  # members of the populations tried: two sizes tell the time, the third suits small models
MAX_STACKED_PARAMETERS = 2_000_000  # of a model; 32 stacked copies of more take gigabytes and gain nothing
MAX_STACKED_NUMBERS = 8_000_000  # numbers in a stack of the largest population
WORTH_GROWING = 0.8  # a larger population must shrink the time of a member to this share
CLEARLY_FASTER = 2.0
NOMINAL_GAIN = 4.0  # of a population that its counted work chose: 2 to 30 times were measured
MIN_SAMPLE_S = 0.005
UPDATE_MEASUREMENT_S = 0.03  # for the optimizer's own step
LINE_SEARCH_STEPS = 6  # that are timed together
WARM_UP_STEPS = 3  # on an accelerator: the first ones choose algorithms and reserve memory
MOST_GAIN_OF_POPULATION = 16.0  # of a small model on the CPU; 12x was measured
ONE_BY_ONE = "one by one: a training function of the user's"
_TOO_SHORT = "the budget is too short to measure a population"
_NOT_ENOUGH = "a population would be {:.1f}x as fast, not enough to matter"


@dataclass(frozen=True)
class ExecutionMode:
    """The execution of a contender's trainings: one by one, or as members of a population.

    Attributes:
        members: Trainings in one population; 1 means one by one.
        fixed_s: Seconds that a population takes whatever its size.
        member_s: Seconds that each member adds.
        reason: Reason for this mode, for the report.
    """

    members: int
    fixed_s: float
    member_s: float
    reason: str

    def seconds(self, trainings: int) -> float:
        """Return the predicted seconds of a number of trainings."""
        return math.ceil(trainings / self.members) * self.fixed_s + trainings * self.member_s


@dataclass(frozen=True)
class Measurement:
    """Result of timing a workload with one contender.

    Attributes:
        mode: The faster execution mode, with its times.
        untrained: Measure before the first step, by split; empty for a training function, whose model is hidden.
        steps: Steps of a training: optimizer steps of a task, reports of a training function.
        single_s: Seconds of a training one by one.
        reports: Values that each of the first trainings of a training function reported.
        maximize: True if higher values are better.
        metric_name: Name of the value that the reports gave; empty if they gave none.
        nominal_s: Seconds of a training by its counted work, the same at every load of the machine.
    """

    mode: ExecutionMode
    untrained: dict[str, float]
    steps: int
    single_s: float = 0.0
    reports: tuple[tuple[float, ...], ...] = ()
    maximize: bool = False
    metric_name: str = ""
    nominal_s: float = 0.0


TimeLeft = Callable[[], float]  # returns the seconds that measurements may still take


def unlimited() -> float:
    """Return infinity: measurements may take as long as they need."""
    return math.inf


def _sample_s(time_left: TimeLeft) -> float:
    """Return the seconds of one sample: a small share of what is left, since about ten follow."""
    return min(MEASUREMENT_S, max(MIN_SAMPLE_S, time_left() / 12))


def measure_task(
    task: Task, contender: Contender, schedule: TrainingSchedule, seed: int, time_left: TimeLeft = unlimited
) -> Measurement:
    """Time trainings of a task, and choose their execution mode.

    The two modes round sums differently, so a choice by the clock would give other results on a busy machine. On the
    CPU the work of a gradient is counted instead, and the clock only predicts how long trainings take. On an
    accelerator the modes are timed, and a population is chosen only if it is clearly faster.

    Args:
        task: The task.
        contender: The contender, at its starting settings.
        schedule: Length of a training and number of its evaluations.
        seed: Seed of the model and the batches.
        time_left: Returns the seconds that measurements may still take. If they run out, trainings run one by one,
            which needs no measurement.

    Raises:
        TaskError: If the task cannot be trained, or its losses are not finite.
    """
    trial = Trial({}, seed)
    device = task.placed_on or devices.CPU
    with isolated(), seeded(seed):
        with raise_task_errors(f"{task.name}: the task must train", task.line_of("loss")):
            single = SingleRun(task, contender, trial)
            buffers = {name: buffer.clone() for name, buffer in single.model.named_buffers()}
            untrained = check_losses(task, single, "before the first step,", ("train", "validation", "test"))
            single_work = single.count_work()  # of the first batch: the clock decides how many steps follow
            step_s = time_of_step(single, device, _sample_s(time_left))
            training_s = time_of_training(single, schedule, step_s, device, _sample_s(time_left))
            check_losses(task, single, "after a first step of length zero, so the gradient is at fault,", ("train",))
        mode: ExecutionMode | str | None = _why_not_stacked(task, contender, single, buffers)
        if mode is None:
            numel = sum(param.numel() for param in single.model.parameters())
            try:
                mode = _population_mode(
                    lambda members: PopulationRun(task, contender, [trial] * members),
                    single_work,
                    schedule,
                    numel,
                    step_s,
                    training_s,
                    device,
                    time_left,
                )
            except Exception as error:  # vmap refuses models in many ways; they train one by one
                summary = str(error).partition("\n")[0][:120]
                mode = f"vmap cannot take the model ({type(error).__name__}: {summary})"
            devices.release_memory(device)
            if devices.is_lost(device):
                raise TaskError(f"{task.name}: the device must work after the pilot, got {mode}.")
    if isinstance(mode, str):
        if task.needs_grad is None and task.evaluates_with_grad("loss"):
            mode += "; evaluations use autograd, which the loss needs"
        mode = ExecutionMode(1, 0.0, training_s, f"one by one: {mode}")
    nominal_s = schedule.steps * nominal_seconds(single_work) / (NOMINAL_GAIN if mode.members > 1 else 1.0)
    return Measurement(mode, untrained, schedule.steps, training_s, maximize=bool(task.maximize), nominal_s=nominal_s)


def _why_not_stacked(task: Task, contender: Contender, single: SingleRun, buffers: dict[str, Tensor]) -> str | None:
    """Return why a task is not tried as a population; None if it is. `buffers` are those before the first step."""
    if any(not torch.equal(buffers.get(name, buffer), buffer) for name, buffer in single.model.named_buffers()):
        return "the model changes its buffers as it trains"
    reason = why_not_population(task, contender, single.model)
    if reason is None and sum(param.numel() for param in single.model.parameters()) > MAX_STACKED_PARAMETERS:
        reason = "the model is too large to stack"
    return reason


def _counted_mode(
    start: Callable[[int], Run], small: Run, members: int, schedule: TrainingSchedule, time_left: TimeLeft
) -> ExecutionMode:
    """Return the mode of a population whose size was chosen by its work; the clock only predicts its times."""
    population = small if members == COUNTED else start(members)
    step_s = time_of_step(population, devices.CPU, _sample_s(time_left))
    population_s = time_of_training(population, schedule, step_s, devices.CPU, _sample_s(time_left))
    member_s = 0.0
    if members > COUNTED and time_left() > 0:
        small_step_s = time_of_step(small, devices.CPU, _sample_s(time_left))
        small_s = time_of_training(small, schedule, small_step_s, devices.CPU, _sample_s(time_left))
        member_s = min(max(0.0, population_s - small_s) / (members - COUNTED), population_s / members)
    reason = f"population of {members} under vmap: its operations are small, as counted"
    return ExecutionMode(members, population_s - members * member_s, member_s, reason)


def _population_mode(
    start: Callable[[int], PopulationRun],
    single: Work,
    schedule: TrainingSchedule,
    numel: int,
    step_s: float,
    training_s: float,
    device: torch.device,
    time_left: TimeLeft,
) -> ExecutionMode | str:
    """Return the mode of the best population, or why none is worth it: on the CPU by its work, else by the clock.

    `start` makes a population of a number of members; all from `single` to `training_s` are those of a single run.
    """
    few, many, most = POPULATIONS
    if time_left() <= 0:
        return _TOO_SHORT
    small = start(few)
    small.metrics()  # vmap may refuse one of them
    if not small.execution:
        counted = counted_members(single, small.count_work())
        return counted if isinstance(counted, str) else _counted_mode(start, small, counted, schedule, time_left)
    few_step_s = time_of_step(small, device, _sample_s(time_left))
    if few_step_s > 2 * few * step_s:
        # No larger population would make up for that, and a large one of a large model takes long to try.
        return "a population is slower here"
    few_s = time_of_training(small, schedule, few_step_s, device, _sample_s(time_left))
    if time_left() <= 0:
        return _TOO_SHORT
    large = start(many)
    many_step_s = time_of_step(large, device, _sample_s(time_left))
    if many_step_s > many * step_s / CLEARLY_FASTER:  # decided before an evaluation, which may take long
        return _NOT_ENOUGH.format(many * step_s / many_step_s)
    many_s = time_of_training(large, schedule, many_step_s, device, _sample_s(time_left))
    if numel * most <= MAX_STACKED_NUMBERS and time_left() > 0:
        largest = start(most)
        most_step_s = time_of_step(largest, device, _sample_s(time_left))
        most_s = time_of_training(largest, schedule, most_step_s, device, _sample_s(time_left))
        if most_s / most < WORTH_GROWING * many_s / many:
            (few, few_s), (many, many_s) = (many, many_s), (most, most_s)
            large = largest
    gain = training_s * many / many_s
    if gain < CLEARLY_FASTER:
        return _NOT_ENOUGH.format(gain)
    member_s = max(0.0, (many_s - few_s) / (many - few))
    how = f", {large.execution}" if large.execution else ""
    reason = f"population of {many} under vmap{how}: {gain:.1f}x as fast here"
    return ExecutionMode(many, many_s - many * member_s, member_s, reason)


def check_losses(task: Task, run: Run, when: str, splits: Sequence[str]) -> dict[str, float]:
    """Return the measure of the first member on these splits.

    Raises:
        TaskError: If a measure is not finite; ``when`` says at which moment.
    """
    losses = {}
    for split in splits:
        (losses[split],) = run.evaluate(split)
        if not math.isfinite(losses[split]):
            part = "loss" if split == "train" or task.metric is None else "metric"
            raise task_error(
                task.name,
                f"the {task.measured_as(split)} must be finite {when.rstrip(',')}",
                str(losses[split]),
                "Look at the data, the initial weights, the scale of the inputs and the loss function, or let thalweg "
                "doctor do it.",
                where=task.line_of(part),
            )
    return losses


def measurement_of_trainings(results: Iterable[TrainingResult]) -> Measurement | None:
    """Return what trainings of a function say of its length and speed; its reports stand for its steps.

    Those that diverged or ended worse than they began count only if there are no others: their first report may be any
    number, and they may have been short.

    Args:
        results: The first trainings of the function, in order.

    Returns:
        The measurement; None if no training has ended by itself.

    Raises:
        TaskError: If the trainings do not agree on what they report.
    """
    ended = [result for result in results if result.status in ("ok", "diverged") and result.evaluations]
    if not ended:
        return None
    ended = [result for result in ended if result.is_sound] or ended
    reports = tuple(tuple(report.validation for report in result.evaluations) for result in ended)
    stating = [result for result in ended if result.maximize is not None]
    for result in stating:
        check_direction(result, maximize=bool(stating[0].maximize))
    training_s = median(result.seconds for result in ended)
    mode = ExecutionMode(1, 0.0, training_s, ONE_BY_ONE)
    return Measurement(
        mode,
        {},
        max(len(result.evaluations) for result in ended),
        training_s,
        reports,
        maximize=bool(stating and stating[0].maximize),
        metric_name=next((result.metric_name for result in ended if result.metric_name), ""),
    )


def time_of_update(task: Task, contender: Contender, seed: int, *, wait: bool = True) -> float:
    """Return the seconds of the optimizer's own step on the task's model, with its gradients at hand.

    Args:
        task: The task.
        contender: The contender.
        seed: Seed of the model and the batch.
        wait: True to wait for the kernel, if one is being compiled.
    """
    device = task.placed_on or devices.CPU
    condition = f"{task.name}: the task must train with {contender.name}"
    with isolated(), seeded(seed), raise_task_errors(condition, task.line_of("loss")):
        single = SingleRun(task, contender, Trial({}, seed))
        if wait and isinstance(single.optimizer, RuleOptimizer):
            single.optimizer.prepare()
        for group in single.optimizer.param_groups:
            group["lr"] = 0.0
        single.step(0.0)
        if not single.passes_closure:
            return seconds_of(single.optimizer.step, UPDATE_MEASUREMENT_S, device)
        params = [param for group in single.optimizer.param_groups for param in group["params"]]
        grads = [param.grad for param in params]

        def restore_grads() -> float:
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            return 1.0

        return seconds_of(lambda: single.optimizer.step(restore_grads), UPDATE_MEASUREMENT_S, device)


def single_thread_slowdown(task: Task, contender: Contender, members: int, seed: int) -> float:
    """Return the seconds of a population's step with one thread, in units of those with all threads.

    A model that vmap cannot take is trained one by one. It is not measured, and counts as 1.
    """
    threads = torch.get_num_threads()
    try:
        with seeded(seed):
            run = PopulationRun(task, contender, [Trial({}, seed)] * members)
            run.step(0.0)
            all_threads_s = seconds_of(lambda: run.step(0.0))
            torch.set_num_threads(1)
            return seconds_of(lambda: run.step(0.0)) / all_threads_s
    except Exception:  # vmap refuses models in many ways
        return 1.0
    finally:
        torch.set_num_threads(threads)


def least_seconds(task: Task, contender: Contender, schedule: TrainingSchedule, seed: int) -> float:
    """Return a bound from two steps: no way to train on the CPU takes less than so many seconds for a training.

    It spares the pilot whole evaluations of a large model on the CPU, if a GPU is faster in any case.
    """
    with isolated(), seeded(seed), raise_task_errors(f"{task.name}: the task must train", task.line_of("loss")):
        single = SingleRun(task, contender, Trial({}, seed))
        lr_factor = _lr_factor_of_sample(single)
        single.step(lr_factor)
        start_s = time.perf_counter()
        single.step(lr_factor)
        step_s = time.perf_counter() - start_s
    gain = float(num_cores())
    if sum(param.numel() for param in single.model.parameters()) <= MAX_STACKED_PARAMETERS:
        gain *= MOST_GAIN_OF_POPULATION
    return schedule.steps * step_s / gain


def _lr_factor_of_sample(run: Run) -> float:
    # A line search that cannot move ends early.
    return 1.0 if isinstance(run, SingleRun) and run.needs_closure else 0.0


def time_of_step(run: Run, device: torch.device = devices.CPU, total_s: float = MEASUREMENT_S) -> float:
    """Return the seconds of a step, the first left out."""
    lr_factor = _lr_factor_of_sample(run)
    for _ in range(1 if device.type == "cpu" else WARM_UP_STEPS):
        run.step(lr_factor)
    # Some steps of a line search have been done with the step before.
    block = [lr_factor] * (LINE_SEARCH_STEPS if isinstance(run, SingleRun) and run.needs_closure else 1)
    return seconds_of(lambda: run.advance(block), total_s, device) / len(block)


def time_of_training(
    run: Run,
    schedule: TrainingSchedule,
    step_s: float,
    device: torch.device = devices.CPU,
    total_s: float = MEASUREMENT_S,
) -> float:
    """Return the predicted seconds of a whole training, given those of a step; an evaluation is measured."""
    evaluation_s = seconds_of(lambda: (run.evaluate("train"), run.evaluate("validation")), total_s, device)
    return schedule.steps * step_s + len(schedule.evaluation_steps()) * evaluation_s
