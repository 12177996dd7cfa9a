"""Workload: the common interface of the two things that a comparison trains, a task and a training function."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training import timing
from thalweg.comparison.training.computation.explanation import explain, is_lost
from thalweg.comparison.training.functions.function_workload import FunctionWorkload, no_full_batch
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.target import Target
from thalweg.comparison.training.task_fingerprint import fingerprint_of_task
from thalweg.comparison.training.task_values import Part, train_by_values
from thalweg.comparison.training.timing import Measurement, TimeLeft, unlimited
from thalweg.comparison.training.trainer import ReportShare, ignore_share, isolate_failures, run_trials
from thalweg.comparison.training.workload_record import SPLITS, WorkloadRecord
from thalweg.engine.core import devices
from thalweg.tasks import Task, TrainingFunction
from thalweg.tasks.reproducibility.isolation import isolated
from thalweg.tasks.tuning import code_of_tunables, task_at, tunables_of_task
from thalweg.tasks.tuning.tunable import Tunable
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
        tunables: Numbers of the workload that are tuned with each contender, by name.
        code_of_tunables: Lines of Python with a place ``{name}`` for the value of each of them.
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
    def tunables(self) -> Mapping[str, Tunable]: ...
    @property
    def code_of_tunables(self) -> list[str]: ...
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

    def at(self, values: Mapping[str, Any]) -> "Workload":
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

    @property
    def tunables(self) -> Mapping[str, Tunable]:
        return tunables_of_task(self.task)

    @property
    def code_of_tunables(self) -> list[str]:
        return code_of_tunables(self.task)

    def at(self, values: Mapping[str, Any]) -> "TaskWorkload":
        return TaskWorkload(task_at(self.task, values))

    def optimizer_names(self, contender: Contender, seed: int, schedule: str | None) -> tuple[str, ...]:
        return ("",)

    def own_device(self) -> torch.device:
        with isolated():
            return next(self.task.on(devices.AUTO).make_model(0).parameters()).device

    def least_seconds(self, contender: Contender, schedule: TrainingSchedule, seed: int) -> float:
        return timing.least_seconds(self.task, contender, schedule, seed)

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
        if (contender.full_batch or contender.ends_on_full_batch) and not self.has_full_batch:
            raise no_full_batch(self.name, contender, "a DataLoader", self.task.line_of("data"))
        rule = contender.thalweg_rule
        if (
            self.task.precision == "float16"
            and rule is not None
            and rule.traits.needs in ("second gradient", "closure")
        ):
            raise task_error(
                self.name,
                f"{contender.name} needs losses without a GradScaler",
                "precision='float16'",
                "Use precision='bfloat16', or leave it out.",
                where=self.task.made_at,
            )
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

    def measure(
        self, contender: Contender, schedule: TrainingSchedule, seed: int, time_left: TimeLeft = unlimited
    ) -> Measurement:
        return timing.measure_task(self.task, contender, schedule, seed, time_left)

    def time_of_update(self, contender: Contender, seed: int, *, wait: bool = True) -> float:
        return timing.time_of_update(self.task, contender, seed, wait=wait)

    def single_thread_slowdown(self, contender: Contender, members: int, seed: int) -> float:
        return timing.single_thread_slowdown(self.task, contender, members, seed)

    def train(
        self,
        contenders: Contender | Sequence[Contender],
        trials: Sequence[Trial],
        schedule: TrainingSchedule,
        report_share: ReportShare = ignore_share,
        rungs: Rungs | None = None,
        stop_at_s: float = math.inf,
    ) -> list[TrainingResult]:
        def train_alike(part: Part) -> list[TrainingResult]:
            def train_together(
                contenders: Sequence[Contender], trials: Sequence[Trial], report_share: ReportShare, rungs: Rungs | None
            ) -> list[TrainingResult]:
                results = run_trials(part.task, contenders, trials, part.schedule, report_share, rungs, stop_at_s)
                if rungs is not None:  # a search may lose as many trainings as it likes
                    return results
                return [
                    replace(result, message=explain(part.task, contender, trial, part.schedule))
                    if is_lost(result)
                    else result
                    for contender, trial, result in zip(contenders, trials, results, strict=True)
                ]

            device, where = self.device, partial(self.task.line_of, "loss")
            return isolate_failures(
                train_together, part.contenders, part.trials, report_share, part.rungs, device, where
            )

        return train_by_values(self.task, contenders, trials, schedule, rungs, train_alike)


def as_workload(task: Task | TrainingFunction) -> Workload:
    """Return the workload of a task or of a training function."""
    return FunctionWorkload(task) if isinstance(task, TrainingFunction) else TaskWorkload(task)
