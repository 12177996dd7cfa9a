"""Records: what the store holds of a comparison and of each of its trials."""

from dataclasses import dataclass
from typing import Any

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.training.result import TrainingResult


@dataclass(frozen=True)
class ComparisonRecord:
    """What is stored of a comparison as a whole; the dicts are plain JSON."""

    id: int
    key: str
    created: str
    finished: str | None
    task: dict[str, Any]
    contenders: list[dict[str, Any]]
    plan: dict[str, Any]
    environment: dict[str, Any]


@dataclass(frozen=True)
class TrialRecord:
    """One stored result, with what it is the result of."""

    contender: str
    stage: str
    study: int
    trial: int
    seed: int
    settings: Settings
    result: TrainingResult
