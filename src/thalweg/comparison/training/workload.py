"""Workload: the common interface of the two things that a comparison trains, a task and a training function."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.functions.optimizer_names import names_of_optimizers
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.target import REPORTS, Target
from thalweg.comparison.training.task_fingerprint import fingerprint_of_function, fingerprint_of_task
from thalweg.comparison.training.task_values import train_by_values
from thalweg.comparison.training.timing import (
    Measurement,
    least_seconds,
    measure_function,
    measure_task,
    single_thread_slowdown,
    time_of_update,
)
from thalweg.comparison.training.trainer import ReportShare, ignore_share, isolate_failures, run_function, run_trials
from thalweg.engine.core import devices
from thalweg.errors import TaskError
from thalweg.tasks import Task, TrainingFunction
from thalweg.tasks.tunable import Tunable
from thalweg.tasks.tuning import code_of_tunables, task_at, tunables_of_task

SPLITS = ("train", "validation", "test")
MIN_EVALUATIONS, MAX_EVALUATIONS = 4, 16  # of a training; between them, one evaluation per pass


@dataclass(frozen=True)
class WorkloadRecord:
    """Description of a workload as plain data: what a store holds and a report reads.

    Attributes:
        name: Name of the task or the function.
        about: One line on it.
        measured: Name of the measured quantity, by split, e.g. ``{"test": "test cross-entropy"}``.
        passes: Passes over the training data in one training; None for a training function, which hides them.
    """

    name: str
    about: str
    measured: dict[str, str]
    passes: int | None

    @property
    def is_function(self) -> bool:
        """True for a training function."""
        return self.passes is None

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON, for the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "WorkloadRecord":
        """Return the record that ``to_json`` stored."""
        return cls(stored["name"], stored["about"], dict(stored["measured"]), stored["passes"])


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
        tunables: Numbers of the workload that are tuned with each contender, by name.
        code_of_tunables: Lines of Python with a place ``{name}`` for the value of each of them.
        has_own_metric: True if a metric of the user, which may be negative, is measured instead of the loss.
        uses_workers: True if worker processes may train it.
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
    def tunables(self) -> Mapping[str, Tunable]: ...
    @property
    def code_of_tunables(self) -> list[str]: ...
    @property
    def has_own_metric(self) -> bool: ...
    @property
    def uses_workers(self) -> bool: ...
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

    def at(self, values: Mapping[str, float]) -> "Workload":
        """Return the workload at values of some of its tuned numbers, which it declares no longer."""

    def optimizer_names(self, contender: Contender, seed: int, schedule: str | None) -> tuple[str, ...]:
        """Return the names of the optimizers of one training; a single empty name if they have none.

        Args:
            contender: A contender that trains it.
            seed: Seed of a training up to its first step.
            schedule: The learning rate schedule that the user chose; None if the user chose none.

        Raises:
            TaskError: If a training function has its own schedule although the user chose one.
        """

    def own_device(self) -> torch.device:
        """Return the device on which the user's code makes the model; the CPU if that is unknown."""

    def least_seconds(self, contender: Contender, schedule: TrainingSchedule, seed: int) -> float:
        """Return a bound: no way to train on this device takes less than so many seconds for a training."""

    def measured_as(self, split: str) -> str:
        """Return the name of the measured quantity, e.g. ``test cross-entropy``."""

    def dtype(self) -> torch.dtype:
        """Return the dtype of the trained parameters."""

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

    def measure(self, contender: Contender, schedule: TrainingSchedule, seed: int) -> Measurement:
        """Train for a moment and return the predicted times, the losses before the first step and the length."""

    def time_of_update(self, contender: Contender, seed: int) -> float | None:
        """Return the seconds of the optimizer's own step; None if the model is unknown."""

    def single_thread_slowdown(self, contender: Contender, members: int, seed: int) -> float:
        """Return the time of a population's step with one thread, in units of its time with all threads."""

    def train(
        self,
        contenders: Contender | Sequence[Contender],
        trials: Sequence[Trial],
        schedule: TrainingSchedule,
        report_share: ReportShare = ignore_share,
        rungs: Rungs | None = None,
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

        Returns:
            One result for each trial, in order.
        """


@dataclass(frozen=True, eq=False)
class TaskWorkload:
    """A task: its model, loss and data are known."""

    task: Task
    has_own_schedule = False
    uses_workers = True
    uses_range_search = True
    can_be_placed = True

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def device(self) -> torch.device:
        return self.task.placed_on or devices.CPU

    def on(self, device: str | torch.device) -> "TaskWorkload":
        return replace(self, task=self.task.on(device))

    @property
    def tunables(self) -> Mapping[str, Tunable]:
        return tunables_of_task(self.task)

    @property
    def code_of_tunables(self) -> list[str]:
        return code_of_tunables(self.task)

    def at(self, values: Mapping[str, float]) -> "TaskWorkload":
        return replace(self, task=task_at(self.task, values))

    def optimizer_names(self, contender: Contender, seed: int, schedule: str | None) -> tuple[str, ...]:
        return ("",)

    def own_device(self) -> torch.device:
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
    def passes(self) -> int:
        return self.task.passes

    @property
    def record(self) -> WorkloadRecord:
        measured = {split: self.task.measured_as(split) for split in SPLITS}
        return WorkloadRecord(self.task.name, self.task.about, measured, self.task.passes)

    def measured_as(self, split: str) -> str:
        return self.task.measured_as(split)

    def dtype(self) -> torch.dtype:
        return next(param.dtype for param in self.task.make_model(0).parameters() if param.requires_grad)

    def state_bytes(self, contender: Contender) -> int:
        return contender.state_bytes(self.task.make_model(0), self.task.roles)

    def training_schedule(self, contender: Contender, schedule: str) -> TrainingSchedule:
        if contender.full_batch and not self.has_full_batch:
            raise TaskError(_no_full_batch(self.name, contender, "got a DataLoader"))
        passes = self.task.passes
        steps = passes * self.task.batches_per_pass(full_batch=contender.full_batch)
        evaluations = min(MAX_EVALUATIONS, max(MIN_EVALUATIONS, passes))
        return TrainingSchedule(steps, contender.schedule or schedule, evaluations)

    def target(self, loss: float, schedule: TrainingSchedule) -> Target:
        return Target(loss, self.selected_on, self.task.passes, "steps" if self.task.splits.train is None else "passes")

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint_of_task(self.task)

    def timing_key(self, contender: Contender) -> Hashable:
        return contender.population_key  # members of one population share its gradients, most of its time

    def measure(self, contender: Contender, schedule: TrainingSchedule, seed: int) -> Measurement:
        return measure_task(self.task, contender, schedule, seed)

    def time_of_update(self, contender: Contender, seed: int) -> float:
        return time_of_update(self.task, contender, seed)

    def single_thread_slowdown(self, contender: Contender, members: int, seed: int) -> float:
        return single_thread_slowdown(self.task, contender, members, seed)

    def train(
        self,
        contenders: Contender | Sequence[Contender],
        trials: Sequence[Trial],
        schedule: TrainingSchedule,
        report_share: ReportShare = ignore_share,
        rungs: Rungs | None = None,
    ) -> list[TrainingResult]:
        def train_alike(
            task: Task,
            contenders: Sequence[Contender],
            trials: Sequence[Trial],
            schedule: TrainingSchedule,
            rungs: Rungs | None,
        ) -> list[TrainingResult]:
            def train_together(
                contenders: Sequence[Contender], trials: Sequence[Trial], report_share: ReportShare, rungs: Rungs | None
            ) -> list[TrainingResult]:
                return run_trials(task, contenders, trials, schedule, report_share, rungs)

            return isolate_failures(train_together, contenders, trials, report_share, rungs, self.device)

        contenders = [contenders] * len(trials) if isinstance(contenders, Contender) else list(contenders)
        return train_by_values(self.task, contenders, trials, schedule, rungs, train_alike)


@dataclass(frozen=True, eq=False)
class FunctionWorkload:
    """A training function: its model and data are hidden; the reports it makes stand for its steps."""

    function: TrainingFunction
    roles = None
    optimum = None
    has_full_batch = False
    has_own_metric = False
    has_own_schedule = True
    uses_workers = False
    uses_range_search = False
    passes = 1

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def can_be_placed(self) -> bool:
        return self.function.is_told_device

    @property
    def device(self) -> torch.device:
        return self.function.placed_on or devices.CPU

    def on(self, device: str | torch.device) -> "FunctionWorkload":
        return replace(self, function=self.function.on(device))

    @property
    def tunables(self) -> Mapping[str, Tunable]:
        return tunables_of_task(self.function)

    @property
    def code_of_tunables(self) -> list[str]:
        return code_of_tunables(self.function)

    def at(self, values: Mapping[str, float]) -> "FunctionWorkload":
        return self  # contenders carry the values to each call

    def optimizer_names(self, contender: Contender, seed: int, schedule: str | None) -> tuple[str, ...]:
        return names_of_optimizers(self.function, contender, seed, schedule=schedule)

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
        measured = {split: self.function.measured_as(split) for split in SPLITS}
        return WorkloadRecord(self.function.name, self.function.about, measured, passes=None)

    def measured_as(self, split: str) -> str:
        return self.function.measured_as(split)

    def dtype(self) -> torch.dtype:
        return torch.float32

    def state_bytes(self, contender: Contender) -> None:
        return None

    def training_schedule(self, contender: Contender, schedule: str) -> TrainingSchedule:
        if contender.full_batch:
            raise TaskError(_no_full_batch(self.name, contender, "and the function makes its own batches"))
        return TrainingSchedule(steps=1, schedule=contender.schedule or schedule, num_evaluations=1)

    def target(self, loss: float, schedule: TrainingSchedule) -> Target:
        return Target(loss, self.selected_on, schedule.steps, REPORTS)

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint_of_function(self.function)

    def timing_key(self, contender: Contender) -> Hashable:
        return None  # the function takes as long for any optimizer, as far as is known

    def measure(self, contender: Contender, schedule: TrainingSchedule, seed: int) -> Measurement:
        return measure_function(self.function, contender, seed, schedule=schedule.schedule)

    def time_of_update(self, contender: Contender, seed: int) -> None:
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
    ) -> list[TrainingResult]:
        def train_in_turn(
            contenders: Sequence[Contender], trials: Sequence[Trial], report_share: ReportShare, rungs: Rungs | None
        ) -> list[TrainingResult]:
            pairs = zip(contenders, trials, strict=True)
            return [run_function(self.function, *pair, rungs, schedule=schedule.schedule) for pair in pairs]

        return isolate_failures(train_in_turn, contenders, trials, report_share, rungs, self.device)


def as_workload(task: Task | TrainingFunction) -> Workload:
    """Return the workload of a task or of a training function."""
    return FunctionWorkload(task) if isinstance(task, TrainingFunction) else TaskWorkload(task)


def _no_full_batch(name: str, contender: Contender, got: str) -> str:
    return f"{name}: {contender.name} needs all training data in one batch, {got}. Leave it out, or use sgd."
