"""Jobs: trainings that run together, here or in a worker process."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.processes.serving import Reply
from thalweg.comparison.processes.stopping import Stopped
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.trainer import DeviceLost
from thalweg.comparison.training.workload import Workload
from thalweg.engine.core import devices
from thalweg.tasks.reproducibility.isolation import apply_settings


@dataclass(frozen=True, eq=False)
class Job:
    """Trainings that run together.

    Attributes:
        contenders: The contender of each trial.
        trials: Settings and seeds.
        schedule: Length, learning rate schedule and number of evaluations, the same for all trials.
        predicted_s: Predicted seconds of all trials.
        rungs: Points at which trainings are pruned; None prunes nothing.
        stop_at_s: When trainings that have not ended return their losses so far, on the clock of ``time.monotonic``.
    """

    contenders: tuple[Contender, ...]
    trials: tuple[Trial, ...]
    schedule: TrainingSchedule
    predicted_s: float
    rungs: Rungs | None = None
    stop_at_s: float = math.inf


class Watch:
    """Reports the share of a job in this process. An error of the watcher ends the job, and is none of the training."""

    def __init__(self, report_share: Callable[[Job, float], None], job: Job) -> None:
        self._report_share, self._job = report_share, job
        self.error: BaseException | None = None

    def report_share(self, share: float) -> None:
        """Report a share; an error is kept, and leaves the job."""
        try:
            self._report_share(self._job, share)
        except BaseException as error:
            self.error = error
            raise Stopped from error


@dataclass(frozen=True, eq=False)
class Target:
    """The work of a worker process.

    Attributes:
        workload: The task or training function.
        device: The device that trains.
        contenders: The contenders, which a request names by their numbers.
        num_threads: Threads of a training.
        settings: Settings of the parent that a fresh process does not have.
    """

    workload: Workload
    device: str
    contenders: list[Contender]
    num_threads: int
    settings: dict[str, Any] = field(default_factory=dict)

    def __call__(self, request: tuple[list[int], Job], report_share: Callable[[float], None]) -> Any:
        """Return the results of a job."""
        workload = self.workload.on(self.device)
        if torch.get_num_threads() != self.num_threads:
            torch.set_num_threads(self.num_threads)
        apply_settings(self.settings)
        devices.use(workload.device)
        numbers, job = request
        job = replace(job, contenders=tuple(self.contenders[number] for number in numbers))
        try:
            return train(workload, job, report_share)
        except DeviceLost as lost:
            return Reply("lost", str(lost))


def train(workload: Workload, job: Job, report_share: Callable[[float], None]) -> list[TrainingResult]:
    """Train a job in this process, and return the results of its trials."""
    results = workload.train(job.contenders, job.trials, job.schedule, report_share, job.rungs, job.stop_at_s)
    hardware = devices.hardware(workload.device)
    return [replace(result, hardware=hardware) for result in results]
