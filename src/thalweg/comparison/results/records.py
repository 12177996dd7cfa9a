"""Records: the stored facts of a comparison and of each of its trials. The store reads and writes their JSON."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.workload_record import WorkloadRecord


@dataclass(frozen=True)
class ComparisonRecord:
    """The stored facts of a comparison as a whole.

    Attributes:
        id: The number of the comparison in its store.
        key: The fingerprint of everything that decides its results.
        created: The time when its plan was stored, in ISO 8601.
        finished: The time when its last trial was stored. None until then.
        workload: The task or the training function.
        contenders: The contenders, in the order in which the user named them.
        plan: The plan, made before the first trial.
        environment: Versions, machine and threads, as plain JSON for display.
    """

    id: int
    key: str
    created: str
    finished: str | None
    workload: WorkloadRecord
    contenders: list[ContenderRecord]
    plan: ComparisonPlan
    environment: dict[str, Any]


class TrialKey(NamedTuple):
    """The key of a trial within its comparison."""

    stage: str
    contender: str
    study: int
    trial: int
    seed: int


@dataclass(frozen=True)
class TrialRecord:
    """The stored result of one trial.

    Attributes:
        contender: The name of the contender.
        stage: The purpose of the training, such as ``search`` or ``race``.
        study: The number of the study that drew the setting.
        trial: The number of the setting in the study.
        seed: The seed of the training.
        settings: The values of the settings that were searched.
        result: How the training ended.
    """

    contender: str
    stage: str
    study: int
    trial: int
    seed: int
    settings: Settings
    result: TrainingResult

    @property
    def key(self) -> TrialKey:
        """The key of the trial within its comparison."""
        return TrialKey(self.stage, self.contender, self.study, self.trial, self.seed)
