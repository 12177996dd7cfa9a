"""Results of trainings: the losses on the way, and how a training ended."""

import math
import traceback as tracebacks
from dataclasses import dataclass, field
from pathlib import Path

import torch

from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.errors import KeywordError, ParameterError, SettingError, UnknownNameError

_TORCH_OPTIMIZERS = Path(torch.optim.__file__).parent
MAX_TRACEBACK = 4000  # characters of a traceback that is kept


@dataclass(frozen=True)
class Evaluation:
    """Losses of a training at one moment.

    Attributes:
        step: Optimizer steps done; reports made, of a training function.
        train: Loss on the training split.
        validation: Measure on the validation split.
        test: Measure on the test split; not a number if it was not measured at this moment.
        metrics: Further numbers that were recorded, by name.
        seconds: Seconds of the training so far; of a member of a population, its share. Not a number in old stores, and
            where no curve is kept.
    """

    step: int
    train: float
    validation: float
    test: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = field(default=math.nan, compare=False)


@dataclass(frozen=True)
class TrainingResult:
    """Result of one training.

    Attributes:
        status: ``ok``, ``diverged``, ``pruned`` (stopped because it did badly), ``stopped`` (because the time was over)
            or ``failed``.
        train: Loss on the training split at the end; not a number if it was not measured, as below.
        validation: Measure on the validation split at the end.
        test: Measure on the test split at the end.
        test_error: Standard error of ``test`` over the test examples.
        seconds: Duration; of a member of a population, its share.
        evaluations: Losses on the way, in order of steps.
        message: The error of a failed training; why one diverged or learned nothing, if that is known.
        counted: Index of the evaluation that counts, from the end: -1 for the last one.
        maximize: True if the reports say that higher values are better; None if they say nothing.
        metric_name: Name of the value that the reports give; empty if they give none.
        stated_at: Line that said so, as `` (at file:line)``; empty in stores.
        hardware: Kind and name of the device, as ``devices.hardware`` returns it; empty in old stores.
        optimizers: The optimizers that a training function made.
        traceback: The end of the traceback of a failed training; the store keeps that of the first of each error.
        is_final: True if a failed training would fail again, whenever it is repeated: ``fails_again`` of its error.
    """

    status: str
    train: float = math.nan
    validation: float = math.nan
    test: float = math.nan
    test_error: float = math.nan
    seconds: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)
    message: str = ""
    counted: int = -1
    maximize: bool | None = None
    metric_name: str = ""
    stated_at: str = field(default="", compare=False)
    hardware: str = ""
    optimizers: list[OptimizerUse] = field(default_factory=list)
    traceback: str = ""
    is_final: bool = False

    @property
    def metrics(self) -> dict[str, float]:
        """The further numbers of the evaluation that counts, by name."""
        return self.evaluations[self.counted].metrics if self.evaluations else {}

    @property
    def is_sound(self) -> bool:
        """True if it ended no worse than it began: it tells of the training function, and not of a bad setting."""
        costs = [-each.validation if self.maximize else each.validation for each in self.evaluations]
        return self.status == "ok" and bool(costs) and costs[-1] <= costs[0]


def end_of_traceback(error: BaseException) -> str:
    """Return the end of the traceback of a failed training: its innermost lines, and the text of the error.

    Args:
        error: The error that the training raised.
    """
    try:
        text = "".join(tracebacks.format_exception(error))
    except Exception:  # the code of a user's error
        return ""
    return text if len(text) <= MAX_TRACEBACK else f"…{text[1 - MAX_TRACEBACK :]}"


def fails_again(error: BaseException) -> bool:
    """Return True if a training that raised an error must raise it whenever it is repeated.

    Settings and parameters that an optimizer refuses are refused again: by a rule of thalweg's, and by ``torch.optim``.
    Any other error may pass: a file, a device or the memory may be there the next time, and an error of the user's code
    may follow from such a fault.

    Args:
        error: The error that the training raised.

    Example:
        >>> fails_again(ParameterError("Lion: gradients must be dense")), fails_again(MemoryError())
        (True, False)
    """
    if isinstance(error, SettingError | KeywordError | UnknownNameError | ParameterError):
        return True
    frames = tracebacks.extract_tb(error.__traceback__)
    if not frames or _TORCH_OPTIMIZERS not in Path(frames[-1].filename).parents:
        return False
    return isinstance(error, ValueError | TypeError) or "not support" in str(error)
