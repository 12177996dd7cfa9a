"""Results of trainings: the losses along the way, and how a training ended."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """The losses after so many steps."""

    step: int
    train: float
    validation: float


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended. `status` is ok, diverged, pruned, or failed (then `message` says how).

    `test_error` is the standard error of `test` over the test examples.
    """

    status: str
    train: float = math.nan
    validation: float = math.nan
    test: float = math.nan
    test_error: float = math.nan
    seconds: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)
    message: str = ""
