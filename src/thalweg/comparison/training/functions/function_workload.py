"""FunctionWorkload: a training function as the thing that the contenders of a comparison train."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.functions.first_step_check import check_first_step
from thalweg.comparison.training.functions.optimizer_names import names_of_optimizers
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.target import REPORTS, Target
from thalweg.comparison.training.task_fingerprint import fingerprint_of_function
from thalweg.comparison.training.timing import Measurement, TimeLeft, unlimited
from thalweg.comparison.training.trainer import ReportShare, ignore_share, isolate_failures, run_function
from thalweg.comparison.training.workload_record import SPLITS, WorkloadRecord
from thalweg.engine.core import devices
from thalweg.errors import TaskError
from thalweg.tasks import TrainingFunction
from thalweg.tasks.tuning import code_of_tunables, tunables_of_task
from thalweg.tasks.tuning.tunable import Tunable
from thalweg.tasks.user_code import task_error


@dataclass(frozen=True, eq=False)
class FunctionWorkload:
    """A training function: its model and data are hidden; the reports it makes stand for its steps.

    Attributes:
        function: The training function.
        checked: The contenders whose first step was checked.
    """

    function: TrainingFunction
    checked: set[str] = field(default_factory=set)
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
        return FunctionWorkload(self.function.on(device), self.checked)

    @property
    def tunables(self) -> Mapping[str, Tunable]:
        return tunables_of_task(self.function)

    @property
    def code_of_tunables(self) -> list[str]:
        return code_of_tunables(self.function)

    def at(self, values: Mapping[str, Any]) -> "FunctionWorkload":
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
        function = self.function
        measured = {split: function.measured_as(split) for split in SPLITS}
        return WorkloadRecord(function.name, function.about, measured, passes=None, result=function.result)

    def measured_as(self, split: str) -> str:
        return self.function.measured_as(split)

    def state_bytes(self, contender: Contender) -> None:
        return None

    def training_schedule(self, contender: Contender, schedule: str) -> TrainingSchedule:
        if contender.name not in self.checked:
            check_first_step(self.function, contender)
            self.checked.add(contender.name)
        rule = contender.thalweg_rule
        if contender.full_batch and (rule is None or rule.traits.needs != "closure"):
            raise no_full_batch(self.name, contender, "a function that makes its own batches", self.function.line)
        return TrainingSchedule(steps=1, schedule=contender.schedule or schedule, num_evaluations=1)

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
            return [run_function(self.function, *pair, rungs, stop_at_s, schedule=schedule.schedule) for pair in pairs]

        return isolate_failures(train_in_turn, contenders, trials, report_share, rungs, self.device)


def no_full_batch(name: str, contender: Contender, got: str, line: str) -> TaskError:
    """Return the error for a contender on the full batch of a workload that has none; ``line`` made the data."""
    needs = f"{contender.name} needs all training data in one batch"
    return task_error(name, needs, got, "Leave it out, or use sgd.", where=line)
