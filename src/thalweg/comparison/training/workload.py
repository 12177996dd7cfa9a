"""Workload: the common interface of the two things that a comparison trains, a task and a training function."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.processes.isolation import isolated
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.target import REPORTS, Target
from thalweg.comparison.training.task_fingerprint import fingerprint_of_function, fingerprint_of_task
from thalweg.comparison.training.timing import (
    Measurement,
    TimeLeft,
    least_seconds,
    measure_task,
    single_thread_slowdown,
    time_of_update,
    unlimited,
)
from thalweg.comparison.training.trainer import ReportShare, ignore_share, isolate_failures, run_function, run_trials
from thalweg.comparison.training.workload_record import SPLITS, WorkloadRecord
from thalweg.engine.core import devices
from thalweg.errors import TaskError
from thalweg.tasks import Task, TrainingFunction
from thalweg.tasks.user_code import task_error

MIN_EVALUATIONS, MAX_EVALUATIONS = 4, 16  # of a training; between them, one evaluation per pass


class Workload(Protocol):
    """The thing that the contenders of a comparison train.

    Attributes:
        name: Name of the task or the function, for messages.
        roles: Roles of parameters by name; None if the model is unknown.
        optimum: The least training loss there is; None if it is unknown.
        passes: Passes over the training data in one training, for a budget in passes.
        selected_on: Split whose measure selects among settings.
        judged_on: Split whose measure evaluates the selected setting.
        has_full_batch: True if all training data can form one batch.
        has_own_schedule: True if the training sets its learning rates itself.
        has_own_metric: True if a metric of the user is measured instead of the loss.
        scale: The scale on which the user wants values compared: ``log`` or ``linear``; None for the usual one.
        uses_workers: True if worker processes may train it.
        has_pilot: True if short samples can measure it; else its first trainings are the measurement.
        uses_range_search: True if the learning rate ranges are checked before the first study.
        can_be_placed: True if ``on`` accepts a device.
        device: Device of the data and the models; the CPU if they lie where the user's code makes them.
        record: The description for the store.
    """

    @property
    def name(self) -> str: ...
    @property
    def roles(self) -> Mapping[str, str] | None: ...
    @property
    def optimum(self) -> float | None: ...
    @property
    def passes(self) -> int: ...
    @property
    def selected_on(self) -> str: ...
    @property
    def judged_on(self) -> str: ...
    @property
    def has_full_batch(self) -> bool: ...
    @property
    def has_own_schedule(self) -> bool: ...
    @property
    def has_own_metric(self) -> bool: ...
    @property
    def scale(self) -> Literal["log", "linear"] | None: ...
    @property
    def uses_workers(self) -> bool: ...
    @property
    def has_pilot(self) -> bool: ...
    @property
    def uses_range_search(self) -> bool: ...
    @property
    def can_be_placed(self) -> bool: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def record(self) -> WorkloadRecord: ...

    def on(self, device: str | torch.device) -> "Workload":
        """Return the workload on a device; ``"auto"`` leaves everything where the user's code makes it."""

    def own_device(self) -> torch.device:
        """Return the device on which the user's code makes the model; the CPU if that is unknown."""

    def least_seconds(self, contender: Contender, schedule: TrainingSchedule, seed: int) -> float:
        """Return a bound: no way to train on this device takes less than so many seconds for a training."""

    def measured_as(self, split: str) -> str:
        """Return the name of the measured quantity, e.g. ``test cross-entropy``."""

    def state_bytes(self, contender: Contender) -> int | None:
        """Return the bytes of a contender's optimizer state; None if the model is unknown."""

    def training_schedule(self, contender: Contender, schedule: str) -> TrainingSchedule:
        """Return the length and the learning rate schedule of a contender's trainings.

        Args:
            contender: The contender; its own schedule replaces that of the comparison.
            schedule: Name of the schedule of the comparison.

        Raises:
            TaskError: If the contender needs the full batch and there is none.
        """

    def target(self, loss: float, schedule: TrainingSchedule) -> Target:
        """Return a target loss with the length of a whole training in the workload's unit."""

    def fingerprint(self) -> dict[str, Any]:
        """Return plain JSON that differs if the workload differs; the key of a comparison hashes it."""

    def timing_key(self, contender: Contender) -> Hashable:
        """Return a key; one measurement serves all contenders that share it."""

    def measure(
        self, contender: Contender, schedule: TrainingSchedule, seed: int, time_left: TimeLeft = unlimited
    ) -> Measurement:
        """Train for a moment, within the time that is left, and return times, first losses and the length.

        Only for a workload that has a pilot.
        """

    def time_of_update(self, contender: Contender, seed: int, *, wait: bool = True) -> float | None:
        """Return the seconds of the optimizer's own step; None if the model is unknown.

        With ``wait`` a kernel that is being compiled is waited for.
        """

    def single_thread_slowdown(self, contender: Contender, members: int, seed: int) -> float:
        """Return the time of a population's step with one thread, in units of its time with all threads."""

    def train(
        self,
        contenders: Contender | Sequence[Contender],
        trials: Sequence[Trial],
        schedule: TrainingSchedule,
        report_share: ReportShare = ignore_share,
        rungs: Rungs | None = None,
        stop_at_s: float = math.inf,
    ) -> list[TrainingResult]:
        """Train all trials together.

        A training that raises has a result of status ``failed``. If a whole population raises, its members are trained
        one by one.

        Args:
            contenders: One contender for all trials, or one for each.
            trials: Settings and seeds; trials of one call share a population.
            schedule: Length, learning rate schedule and number of evaluations.
            report_share: Called with the share of the training that is done, from 0 to 1.
            rungs: Points at which trainings are pruned; None prunes nothing.
            stop_at_s: Reading of the steady clock at which the trainings end, wherever they are.

        Returns:
            One result for each trial, in order.
        """


@dataclass(frozen=True, eq=False)
class TaskWorkload:
    """A task: its model, loss and data are known."""

    task: Task
    has_own_schedule = False
    uses_workers = uses_range_search = can_be_placed = has_pilot = True

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def device(self) -> torch.device:
        return self.task.placed_on or devices.CPU

    def on(self, device: str | torch.device) -> "TaskWorkload":
        return TaskWorkload(self.task.on(device))

    def own_device(self) -> torch.device:
        with isolated():
            return next(self.task.on(devices.AUTO).make_model(0).parameters()).device

    def least_seconds(self, contender: Contender, schedule: TrainingSchedule, seed: int) -> float:
        return least_seconds(self.task, contender, schedule, seed)

    @property
    def selected_on(self) -> str:
        return self.task.selected_on

    @property
    def judged_on(self) -> str:
        return self.task.judged_on

    @property
    def roles(self) -> Mapping[str, str]:
        return self.task.roles

    @property
    def optimum(self) -> float | None:
        return self.task.optimum

    @property
    def has_full_batch(self) -> bool:
        train = self.task.splits.train
        return train is None or isinstance(train, tuple)

    @property
    def has_own_metric(self) -> bool:
        return self.task.metric is not None

    @property
    def scale(self) -> Literal["log", "linear"] | None:
        return self.task.scale

    @property
    def passes(self) -> int:
        return self.task.passes

    @property
    def record(self) -> WorkloadRecord:
        task = self.task
        measured = {split: task.measured_as(split) for split in SPLITS}
        sources = {split: task.source_of(split) for split in SPLITS if task.source_of(split) != split}
        return WorkloadRecord(task.name, task.about, measured, task.passes, task.result, sources)

    def measured_as(self, split: str) -> str:
        return self.task.measured_as(split)

    def state_bytes(self, contender: Contender) -> int:
        with isolated():
            return contender.state_bytes(self.task.make_model(0), self.task.roles)

    def training_schedule(self, contender: Contender, schedule: str) -> TrainingSchedule:
        if contender.full_batch and not self.has_full_batch:
            raise _no_full_batch(self.name, contender, "a DataLoader", self.task.line_of("data"))
        steps = self.task.passes * self.task.batches_per_pass(full_batch=contender.full_batch)
        evaluations = min(MAX_EVALUATIONS, max(MIN_EVALUATIONS, self.task.passes))
        return TrainingSchedule(steps, contender.schedule or schedule, evaluations)

    def target(self, loss: float, schedule: TrainingSchedule) -> Target:
        return Target(loss, self.selected_on, self.task.passes, "steps" if self.task.splits.train is None else "passes")

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint_of_task(self.task)

    def timing_key(self, contender: Contender) -> Hashable:
        return contender.population_key  # members of one population share its gradients, most of its time

    def measure(
        self, contender: Contender, schedule: TrainingSchedule, seed: int, time_left: TimeLeft = unlimited
    ) -> Measurement:
        return measure_task(self.task, contender, schedule, seed, time_left)

    def time_of_update(self, contender: Contender, seed: int, *, wait: bool = True) -> float:
        return time_of_update(self.task, contender, seed, wait=wait)

    def single_thread_slowdown(self, contender: Contender, members: int, seed: int) -> float:
        return single_thread_slowdown(self.task, contender, members, seed)

    def train(
        self,
        contenders: Contender | Sequence[Contender],
        trials: Sequence[Trial],
        schedule: TrainingSchedule,
        report_share: ReportShare = ignore_share,
        rungs: Rungs | None = None,
        stop_at_s: float = math.inf,
    ) -> list[TrainingResult]:
        def train_together(
            contenders: Sequence[Contender], trials: Sequence[Trial], report_share: ReportShare, rungs: Rungs | None
        ) -> list[TrainingResult]:
            return run_trials(self.task, contenders, trials, schedule, report_share, rungs, stop_at_s)

        device, where = self.device, partial(self.task.line_of, "loss")
        return isolate_failures(train_together, contenders, trials, report_share, rungs, device, where)


@dataclass(frozen=True, eq=False)
class FunctionWorkload:
    """A training function: its model and data are hidden; the reports it makes stand for its steps."""

    function: TrainingFunction
    roles = optimum = None
    has_full_batch = has_own_metric = uses_range_search = has_pilot = False
    has_own_schedule, passes = True, 1

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def scale(self) -> Literal["log", "linear"] | None:
        return self.function.scale

    @property
    def can_be_placed(self) -> bool:
        return self.function.is_told_device

    @property
    def uses_workers(self) -> bool:
        return devices.available() == [devices.CPU]  # it may use an accelerator, which is for one process

    @property
    def device(self) -> torch.device:
        return self.function.placed_on or devices.CPU

    def on(self, device: str | torch.device) -> "FunctionWorkload":
        return FunctionWorkload(self.function.on(device))

    def own_device(self) -> torch.device:
        return devices.CPU

    def least_seconds(self, contender: Contender, schedule: TrainingSchedule, seed: int) -> float:
        return 0.0

    @property
    def selected_on(self) -> str:
        return self.function.selected_on

    @property
    def judged_on(self) -> str:
        return self.function.judged_on

    @property
    def record(self) -> WorkloadRecord:
        function = self.function
        measured = {split: function.measured_as(split) for split in SPLITS}
        return WorkloadRecord(function.name, function.about, measured, passes=None, result=function.result)

    def measured_as(self, split: str) -> str:
        return self.function.measured_as(split)

    def state_bytes(self, contender: Contender) -> None:
        return None

    def training_schedule(self, contender: Contender, schedule: str) -> TrainingSchedule:
        if contender.full_batch:
            raise _no_full_batch(self.name, contender, "a function that makes its own batches", self.function.line)
        return TrainingSchedule(steps=1, schedule="constant", num_evaluations=1)

    def target(self, loss: float, schedule: TrainingSchedule) -> Target:
        return Target(loss, self.selected_on, schedule.steps, REPORTS)

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint_of_function(self.function)

    def timing_key(self, contender: Contender) -> Hashable:
        return None  # the function takes as long for any optimizer, as far as is known

    def measure(
        self, contender: Contender, schedule: TrainingSchedule, seed: int, time_left: TimeLeft = unlimited
    ) -> Measurement:
        raise AssertionError("the first trainings of a training function are its measurement")

    def time_of_update(self, contender: Contender, seed: int, *, wait: bool = True) -> None:
        return None

    def single_thread_slowdown(self, contender: Contender, members: int, seed: int) -> float:
        return 1.0

    def train(
        self,
        contenders: Contender | Sequence[Contender],
        trials: Sequence[Trial],
        schedule: TrainingSchedule,
        report_share: ReportShare = ignore_share,
        rungs: Rungs | None = None,
        stop_at_s: float = math.inf,
    ) -> list[TrainingResult]:
        def train_in_turn(
            contenders: Sequence[Contender], trials: Sequence[Trial], report_share: ReportShare, rungs: Rungs | None
        ) -> list[TrainingResult]:
            pairs = zip(contenders, trials, strict=True)
            return [run_function(self.function, *pair, rungs, stop_at_s) for pair in pairs]

        return isolate_failures(train_in_turn, contenders, trials, report_share, rungs, self.device)


def as_workload(task: Task | TrainingFunction) -> Workload:
    """Return the workload of a task or of a training function."""
    return FunctionWorkload(task) if isinstance(task, TrainingFunction) else TaskWorkload(task)


def _no_full_batch(name: str, contender: Contender, got: str, line: str) -> TaskError:
    needs = f"{contender.name} needs all training data in one batch"
    return task_error(name, needs, got, "Leave it out, or use sgd.", where=line)
