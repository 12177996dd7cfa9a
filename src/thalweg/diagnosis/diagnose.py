"""diagnose: run a training, watch it, replay it with one change at a time, and prove the cure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.tasks.training import Training


@dataclass(frozen=True)
class DiagnosisProgress:
    """Where a diagnosis is.

    Attributes:
        stage: ``"inspecting"``, ``"watching"``, ``"replaying"`` or ``"verifying"``.
        detail: What is tried at the moment: the name of a change, or the seed.
        runs: Runs that have ended.
        seconds: Time since the beginning.
        budget_s: The budget in seconds.
    """

    stage: str
    detail: str
    runs: int
    seconds: float
    budget_s: float


ReportProgress = Callable[[DiagnosisProgress], Any]


def diagnose(
    function: Callable[[int], Training],
    seeds: int = 3,
    budget: str | float = "60s",
    steps: int | None = None,
    progress: ReportProgress | None = None,
) -> Diagnosis:
    """Find the cause of a failed training, and the smallest change that cures it.

    Args:
        function: Makes a fresh ``Training`` for a seed; or a ``Task``, or the name of a built-in one.
        seeds: Number of fresh seeds on which the cure is verified, at least 2.
        budget: Time limit, such as ``"60s"`` or ``"5m"``.
        steps: Steps of each run. Defaults to 250, or those of the task if they are fewer.
        progress: Called with where the diagnosis is.

    Returns:
        The diagnosis.
    """
    raise NotImplementedError
