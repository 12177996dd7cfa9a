"""Training: from a task, contenders, settings and seeds to results.

One loop, ``follow``, trains a single model and a population alike; a training function is its own loop.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.processes.stopping import Stopped, is_interrupt, leave_if_stopped
from thalweg.comparison.training.functions.optimizer_requests import OptimizerRequests
from thalweg.comparison.training.functions.reports import ReportLog
from thalweg.comparison.training.population_run import PopulationRun
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import Evaluation, TrainingResult, end_of_traceback, fails_again
from thalweg.comparison.training.runs import Run, SingleRun, Trial
from thalweg.engine.core import devices
from thalweg.tasks import Task, TrainingFunction, seeded
from thalweg.tasks.measurement import best_index
from thalweg.tasks.reproducibility.isolation import isolated
from thalweg.tasks.tuning import task_at
from thalweg.tasks.user_code import describe, describe_with_line

MAX_MESSAGE = 300  # characters: torch describes its whole memory if there is none left
STEPS_BETWEEN_CHECKS = 64  # on a device, of the time that is left: it works ahead of the host, and a check waits for it
EXPLOSION = 10.0  # a training diverged if its training loss ends so many times as high as it began

ReportShare = Callable[[float], None]
TrainTogether = Callable[[Sequence[Contender], Sequence[Trial], ReportShare, Rungs | None], list[TrainingResult]]


def ignore_share(share: float) -> None:
    """Ignore the share of a training that is done."""


def follow(
    run: Run,
    schedule: TrainingSchedule,
    report_share: ReportShare = ignore_share,
    rungs: Rungs | None = None,
    stop_at_s: float = math.inf,
) -> list[TrainingResult]:
    """Train to the end of the schedule and evaluate on the way.

    Args:
        run: The training, at its start.
        schedule: Length, learning rate schedule and number of evaluations.
        report_share: Called with the share of the training that is done, from 0 to 1, after each evaluation.
        rungs: Points at which members are pruned; None prunes nothing.
        stop_at_s: Reading of the steady clock at which the training ends, with an evaluation wherever it is then.

    Returns:
        One result for each member.
    """
    log = _TrainingLog(run)
    steps_done = 0
    for step in sorted({*schedule.evaluation_steps(), *(rungs.earlier_losses if rungs else ())}):
        steps_done = _advance(run, schedule, steps_done, step, stop_at_s - log.evaluation_s)
        log.evaluate(steps_done)
        leave_if_stopped()
        report_share(steps_done / schedule.steps)
        if steps_done < step:
            log.stop()
            break
        if log.all_diverged():
            break
        if rungs and steps_done in rungs.earlier_losses:
            log.prune(rungs, steps_done)
            if not log.active:
                break
    return log.results()


def _advance(run: Run, schedule: TrainingSchedule, first: int, last: int, stop_at_s: float) -> int:
    """Take the steps from the first to the last, or until a time. Return the number of steps done."""
    chunk = last - first
    if math.isfinite(stop_at_s):
        chunk = min(chunk, 1 if run.device_type == "cpu" else STEPS_BETWEEN_CHECKS)
    while first < last:
        if monotonic() >= stop_at_s:
            break
        end = min(first + chunk, last)
        run.advance([schedule.lr_factor(done) for done in range(first, end)])
        first = end
        if first < last and run.device_type != "cpu" and math.isfinite(stop_at_s):
            run.synchronize()
    return first


class _TrainingLog:
    """The evaluations, seconds and results of the members of a run; ``active`` are those not pruned."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.active = list(range(run.members))
        self._evaluations: list[list[Evaluation]] = [[] for _ in self.active]
        self._test_errors: list[list[float]] = [[] for _ in self.active]
        self._counts_best = run.task.result == "best"
        self._seconds = [0.0 for _ in self.active]
        self._results: dict[int, TrainingResult] = {}
        self._last_s = monotonic()
        self.evaluation_s = 0.0  # of the last evaluation

    def evaluate(self, steps_done: int) -> None:
        start_s = monotonic()
        losses = zip(self.active, *self._run.evaluate_all(("train", "validation")), strict=True)
        for member, train, validation in losses:
            self._evaluations[member].append(Evaluation(steps_done, known(train), known(validation)))
        if self._counts_best:
            self._test()
        self.evaluation_s = monotonic() - start_s
        self._share_seconds()
        for member in self.active:
            evaluations = self._evaluations[member]
            evaluations[-1] = replace(evaluations[-1], seconds=self._seconds[member])

    def _test(self) -> None:
        """Add the test value and the further metrics of each active member to its last evaluation."""
        for member, (test, error), metrics in zip(self.active, self._run.test(), self._run.metrics(), strict=True):
            evaluations = self._evaluations[member]
            evaluations[-1] = replace(evaluations[-1], test=known(test), metrics=metrics)
            self._test_errors[member].append(error)

    def _share_seconds(self) -> None:
        """Divide the time since the last call among the active members."""
        now = monotonic()
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

    def stop(self) -> None:
        """End all active members where they are, because the time is over."""
        for member in self.active:
            self._results[member] = stopped_result(self._evaluations[member], self._seconds[member])
        self.active = []

    def results(self) -> list[TrainingResult]:
        """Measure the active members on the test split, and return the results of all."""
        if self.active and not self._counts_best:
            self._test()
            self._share_seconds()
        for member in self.active:
            evaluations, counted = self._evaluations[member], -1
            if self._counts_best:
                validations = [evaluation.validation for evaluation in evaluations]
                counted = best_index(validations, maximize=bool(self._run.task.maximize)) - len(evaluations)
            error = self._test_errors[member][counted]
            self._results[member] = final_result(evaluations, error, self._seconds[member], counted)
        return [self._results[member] for member in range(len(self._evaluations))]


def pruned_result(evaluations: list[Evaluation], seconds: float) -> TrainingResult:
    """Return the result of a training that did not pass a rung: pruned, or diverged if its last losses say so."""
    last = evaluations[-1]
    status = "pruned" if math.isfinite(last.train) or math.isfinite(last.validation) else "diverged"
    return TrainingResult(status, last.train, last.validation, seconds=seconds, evaluations=evaluations)


def stopped_result(evaluations: list[Evaluation], seconds: float) -> TrainingResult:
    """Return the result of a training that was stopped because the time was over, with its losses so far."""
    last = evaluations[-1] if evaluations else Evaluation(0, math.nan, math.nan)
    return TrainingResult("stopped", last.train, last.validation, seconds=seconds, evaluations=evaluations)


def known(value: float) -> float:
    """Return a finite value; not a number for any other, as a store keeps it."""
    return value if math.isfinite(value) else math.nan


def final_result(evaluations: list[Evaluation], test_error: float, seconds: float, counted: int = -1) -> TrainingResult:
    """Return the result of a training that ended.

    It diverged if a loss that counts is not finite, or the training loss was then ten times as high as it began.

    Args:
        evaluations: The evaluations, in order. That which counts has a test value.
        test_error: Standard error of this test value.
        seconds: The duration.
        counted: Index of the evaluation that counts.
    """
    first, last = evaluations[0].train, evaluations[counted].train
    losses = (last, evaluations[counted].validation, evaluations[counted].test)
    exploded = last > first + (EXPLOSION - 1) * abs(first)
    status = "ok" if all(math.isfinite(loss) for loss in losses) and not exploded else "diverged"
    return TrainingResult(status, *losses, test_error, seconds, evaluations, counted=counted)


class DeviceLost(Exception):  # noqa: N818  (it carries the error of the training)
    """The device no longer works in this process, and works again in another one. The message is that of the error."""


class _Pruned(BaseException):
    """Leaves a training function from within ``report``; an ``except Exception`` of the user does not stop it."""


class _Stopped(_Pruned):
    """Leaves a training function because the time is over."""


def run_function(
    function: TrainingFunction,
    contender: Contender,
    trial: Trial,
    rungs: Rungs | None = None,
    stop_at_s: float = math.inf,
    *,
    schedule: str = "constant",
) -> TrainingResult:
    """Call a training function once and return what it reports.

    Args:
        function: The training function.
        contender: The contender whose optimizer it gets.
        trial: The settings of the optimizer and of the task; the caller seeds the random states.
        rungs: Points at which the function is pruned, in reports; None prunes nothing.
        stop_at_s: Reading of the steady clock from which on a report ends the function.
        schedule: The learning rate schedule of optimizers that it requests with a scheduler.

    Raises:
        TaskError: If the function reports nothing, or makes no optimizer.
    """
    make_optimizer = OptimizerRequests(function.name, contender, trial.settings, schedule=schedule, line=function.line)

    def after_report(evaluation: Evaluation) -> None:
        make_optimizer.observe_report()
        leave_if_stopped()
        is_rung = rungs is not None and evaluation.step in rungs.earlier_losses
        if rungs and is_rung and not rungs.survivors(evaluation.step, [evaluation.validation]):
            raise _Pruned
        if monotonic() >= stop_at_s:
            raise _Stopped

    reports = ReportLog(function, after_report)
    start_s = monotonic()
    try:
        task_at(function, contender.task_values(trial.settings)).run(make_optimizer, reports.report)
        result = reports.result(monotonic() - start_s)
        make_optimizer.finish()
    except _Stopped:
        result = reports.described(stopped_result(reports.evaluations, monotonic() - start_s))
    except _Pruned:
        result = reports.described(pruned_result(reports.evaluations, monotonic() - start_s))
    return replace(result, optimizers=make_optimizer.uses())


def run_trials(
    task: Task,
    contenders: Sequence[Contender],
    trials: Sequence[Trial],
    schedule: TrainingSchedule,
    report_share: ReportShare = ignore_share,
    rungs: Rungs | None = None,
    stop_at_s: float = math.inf,
) -> list[TrainingResult]:
    """Train a single trial by itself, or several as a population; an error of a training is raised.

    Args:
        task: The task.
        contenders: The contender of each trial.
        trials: Settings and seeds.
        schedule: Length, learning rate schedule and number of evaluations.
        report_share: Called with the share of the training that is done.
        rungs: Points at which trainings are pruned; None prunes nothing.
        stop_at_s: Reading of the steady clock at which the trainings end.
    """
    single = len(trials) == 1
    run = SingleRun(task, contenders[0], trials[0]) if single else PopulationRun(task, contenders, trials)
    return follow(run, schedule, report_share, rungs, stop_at_s)


def isolate_failures(
    train: TrainTogether,
    contenders: Contender | Sequence[Contender],
    trials: Sequence[Trial],
    report_share: ReportShare = ignore_share,
    rungs: Rungs | None = None,
    device: torch.device = devices.CPU,
    where: Callable[[], str] = lambda: "",
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
        where: Returns file and line to name if the traceback of an error has no line of the user's.

    Returns:
        One result for each trial, in order.

    Raises:
        DeviceLost: If an error has made the device useless in this process.
    """
    contenders = [contenders] * len(trials) if isinstance(contenders, Contender) else list(contenders)
    try:
        with isolated(), seeded(trials[0].seed):
            return train(contenders, trials, report_share, rungs)
    except Stopped:
        raise
    except BaseException as error:  # sys.exit in the user's code, too
        if is_interrupt(error):
            raise
        message, trace = describe_failure(error, device, where), end_of_traceback(error)
        is_final = fails_again(error)
    # Only now: the error held the frames of the training, and with them its tensors.
    if devices.is_lost(device):
        raise DeviceLost(message)
    devices.release_memory(device)
    if len(trials) == 1:
        return [TrainingResult("failed", message=message, traceback=trace, is_final=is_final)]
    results: list[TrainingResult] = []
    for contender, trial in zip(contenders, trials, strict=True):
        results += isolate_failures(train, contender, [trial], rungs=rungs, device=device, where=where)
        rungs = rungs and rungs.with_training(results[-1].evaluations)
    return results


def describe_failure(error: BaseException, device: torch.device, where: Callable[[], str] = lambda: "") -> str:
    """Return the message of a failed training: the kind of its error, its text, the user's line and the remedy."""
    text = describe(error).removeprefix(f"{type(error).__name__}: ")
    if devices.is_out_of_memory(error):
        return f"{devices.hardware(device)} is out of memory: {text.partition('. ')[0]:.{MAX_MESSAGE}}"
    return describe_with_line(error, where)
