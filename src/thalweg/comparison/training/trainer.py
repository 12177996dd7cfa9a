"""Training: from a task, contenders, settings and seeds to results.

One loop, ``follow``, trains a single model and a population alike; a training function is its own loop.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.functions.optimizer_requests import OptimizerRequests
from thalweg.comparison.training.population_run import PopulationRun
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import Evaluation, TrainingResult, end_of_traceback
from thalweg.comparison.training.runs import Run, SingleRun, Trial
from thalweg.engine.core import devices
from thalweg.errors import TaskError
from thalweg.tasks import Task, TrainingFunction, seeded
from thalweg.tasks.tuning import task_at

MAX_MESSAGE = 300  # characters: torch describes its whole memory if there is none left
EXPLOSION = 10.0  # a training diverged if its training loss ends so many times as high as it began

ReportShare = Callable[[float], None]
TrainTogether = Callable[[Sequence[Contender], Sequence[Trial], ReportShare, Rungs | None], list[TrainingResult]]


def ignore_share(share: float) -> None:
    """Ignore the share of a training that is done."""


def follow(
    run: Run, schedule: TrainingSchedule, report_share: ReportShare = ignore_share, rungs: Rungs | None = None
) -> list[TrainingResult]:
    """Train to the end of the schedule and evaluate on the way.

    Args:
        run: The training, at its start.
        schedule: Length, learning rate schedule and number of evaluations.
        report_share: Called with the share of the training that is done, from 0 to 1, after each evaluation.
        rungs: Points at which members are pruned; None prunes nothing.

    Returns:
        One result for each member.
    """
    log = _TrainingLog(run)
    steps_done = 0
    for step in sorted({*schedule.evaluation_steps(), *(rungs.earlier_losses if rungs else ())}):
        run.advance([schedule.lr_factor(done) for done in range(steps_done, step)])
        steps_done = step
        log.evaluate(steps_done)
        report_share(steps_done / schedule.steps)
        if log.all_diverged():
            break
        if rungs and steps_done in rungs.earlier_losses:
            log.prune(rungs, steps_done)
            if not log.active:
                break
    return log.results()


class _TrainingLog:
    """The evaluations, seconds and results of the members of a run; ``active`` are those not pruned."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.active = list(range(run.members))
        self._evaluations: list[list[Evaluation]] = [[] for _ in self.active]
        self._seconds = [0.0 for _ in self.active]
        self._results: dict[int, TrainingResult] = {}
        self._last_s = time.perf_counter()

    def evaluate(self, steps_done: int) -> None:
        losses = zip(self.active, *self._run.evaluate_all(("train", "validation")), strict=True)
        for member, train, validation in losses:
            self._evaluations[member].append(Evaluation(steps_done, train, validation))
        self._share_seconds()

    def _share_seconds(self) -> None:
        """Divide the time since the last call among the active members."""
        now = time.perf_counter()
        for member in self.active:
            self._seconds[member] += (now - self._last_s) / len(self.active)
        self._last_s = now

    def all_diverged(self) -> bool:
        return not any(math.isfinite(self._evaluations[member][-1].train) for member in self.active)

    def prune(self, rungs: Rungs, step: int) -> None:
        losses = [getattr(self._evaluations[member][-1], rungs.split) for member in self.active]
        survivors = rungs.survivors(step, losses)
        for k in set(range(len(self.active))) - set(survivors):
            member = self.active[k]
            self._results[member] = pruned_result(self._evaluations[member], self._seconds[member])
        self.active = [self.active[k] for k in survivors]
        if self.active and len(self.active) < self._run.members:
            self._run.keep(survivors)

    def results(self) -> list[TrainingResult]:
        """Measure the active members on the test split, and return the results of all."""
        if self.active:
            tests = self._run.test()
            self._share_seconds()
            for member, (test, error) in zip(self.active, tests, strict=True):
                self._results[member] = final_result(self._evaluations[member], test, error, self._seconds[member])
        return [self._results[member] for member in range(len(self._evaluations))]


def pruned_result(evaluations: list[Evaluation], seconds: float) -> TrainingResult:
    """Return the result of a training that did not pass a rung: pruned, or diverged if its last losses say so."""
    last = evaluations[-1]
    status = "pruned" if math.isfinite(last.train) or math.isfinite(last.validation) else "diverged"
    return TrainingResult(status, last.train, last.validation, seconds=seconds, evaluations=evaluations)


def final_result(evaluations: list[Evaluation], test: float, test_error: float, seconds: float) -> TrainingResult:
    """Return the result of a training that ended.

    It diverged if a last loss is not finite, or the training loss ended ten times as high as it began.
    """
    first, last = evaluations[0].train, evaluations[-1].train
    losses = (last, evaluations[-1].validation, test)
    exploded = last > first + (EXPLOSION - 1) * abs(first)
    status = "ok" if all(math.isfinite(loss) for loss in losses) and not exploded else "diverged"
    return TrainingResult(status, *losses, test_error, seconds, evaluations)


class DeviceLost(Exception):  # noqa: N818  (it carries the error of the training)
    """The device no longer works in this process, and works again in another one. The message is that of the error."""


class _Pruned(BaseException):
    """Leaves a training function from within ``report``; an ``except Exception`` of the user does not stop it."""


def run_function(
    function: TrainingFunction,
    contender: Contender,
    trial: Trial,
    rungs: Rungs | None = None,
    *,
    schedule: str = "constant",
) -> TrainingResult:
    """Call a training function once and return what it reports.

    Args:
        function: The training function.
        contender: The contender whose optimizer it gets.
        trial: The settings of the optimizer and of the task; the caller seeds the random states.
        rungs: Points at which the function is pruned, in reports; None prunes nothing.
        schedule: The learning rate schedule of optimizers that it requests with a scheduler.

    Raises:
        TaskError: If the function reports nothing, or makes no optimizer.
    """
    evaluations: list[Evaluation] = []
    tests: list[float] = []
    make_optimizer = OptimizerRequests(function.name, contender, trial.settings, schedule=schedule)

    def report(value: Any, *, train: Any = math.nan, test: Any = None) -> None:
        count = len(evaluations) + 1
        evaluations.append(Evaluation(count, _number(train), _number(value)))
        tests.append(_number(value if test is None else test))
        make_optimizer.observe_report()
        if rungs and count in rungs.earlier_losses and not rungs.survivors(count, [evaluations[-1].validation]):
            raise _Pruned

    start_s = time.perf_counter()
    try:
        task_at(function, contender.task_values(trial.settings)).run(make_optimizer, report)
    except _Pruned:
        pruned = pruned_result(evaluations, time.perf_counter() - start_s)
        return replace(pruned, optimizers=make_optimizer.uses())
    if not evaluations:
        raise TaskError(f"{function.name}: the function must call report(value) at least once, and did not.")
    make_optimizer.finish()
    last, test = evaluations[-1], tests[-1]
    status = "ok" if math.isfinite(last.validation) and math.isfinite(test) else "diverged"
    seconds = time.perf_counter() - start_s
    return TrainingResult(
        status,
        last.train,
        last.validation,
        test,
        seconds=seconds,
        evaluations=evaluations,
        optimizers=make_optimizer.uses(),
    )


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, torch.Tensor) else value)


def run_trials(
    task: Task,
    contenders: Sequence[Contender],
    trials: Sequence[Trial],
    schedule: TrainingSchedule,
    report_share: ReportShare = ignore_share,
    rungs: Rungs | None = None,
) -> list[TrainingResult]:
    """Train a single trial by itself, or several as a population; an error of a training is raised.

    Args:
        task: The task.
        contenders: The contender of each trial.
        trials: Settings and seeds.
        schedule: Length, learning rate schedule and number of evaluations.
        report_share: Called with the share of the training that is done.
        rungs: Points at which trainings are pruned; None prunes nothing.
    """
    single = len(trials) == 1
    run = SingleRun(task, contenders[0], trials[0]) if single else PopulationRun(task, contenders, trials)
    return follow(run, schedule, report_share, rungs)


def isolate_failures(
    train: TrainTogether,
    contenders: Contender | Sequence[Contender],
    trials: Sequence[Trial],
    report_share: ReportShare = ignore_share,
    rungs: Rungs | None = None,
    device: torch.device = devices.CPU,
) -> list[TrainingResult]:
    """Train trials together; if that raises, one by one.

    A single training that raises has a result of status ``failed`` with the error as its message. If its device had no
    memory left, the memory is free again afterwards.

    Args:
        train: Trains trials together.
        contenders: One contender for all trials, or one for each.
        trials: Settings and seeds; the first seed sets the random states.
        report_share: Called with the share of the training that is done; not called once trials train one by one.
        rungs: Points at which trainings are pruned; None prunes nothing.
        device: The device that trains.

    Returns:
        One result for each trial, in order.

    Raises:
        DeviceLost: If an error has made the device useless in this process.
    """
    contenders = [contenders] * len(trials) if isinstance(contenders, Contender) else list(contenders)
    try:
        with seeded(trials[0].seed):
            return train(contenders, trials, report_share, rungs)
    except Exception as error:
        message, trace = describe_failure(error, device), end_of_traceback(error)
    # Only now: the error held the frames of the training, and with them its tensors.
    if devices.is_lost(device):
        raise DeviceLost(message)
    devices.release_memory(device)
    if len(trials) == 1:
        return [TrainingResult("failed", message=message, traceback=trace)]
    results: list[TrainingResult] = []
    for contender, trial in zip(contenders, trials, strict=True):
        results += isolate_failures(train, contender, [trial], rungs=rungs, device=device)
        rungs = rungs and rungs.with_training(results[-1].evaluations)
    return results


def describe_failure(error: BaseException, device: torch.device) -> str:
    """Return the message of a failed training: the kind of its error and the beginning of its text."""
    if devices.is_out_of_memory(error):
        return f"{devices.hardware(device)} is out of memory: {str(error).partition('. ')[0]:.{MAX_MESSAGE}}"
    return f"{type(error).__name__}: {error}"
