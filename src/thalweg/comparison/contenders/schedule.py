"""TrainingSchedule: the length of a training, its learning rate schedule, and when the model is evaluated."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.errors import SettingError, nearest

WARM_UP_SHARE = 0.05  # of the steps, in the schedules that have a warm-up


def _linear(step: int, steps: int) -> float:
    return 1 - step / steps


def _cosine(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * step / steps)) / 2


def _constant(step: int, steps: int) -> float:
    return 1.0


def warm_up_steps(steps: int) -> int:
    """Return the number of warm-up steps of a training with this number of steps."""
    return min(max(2, round(WARM_UP_SHARE * steps)), steps - 1) if steps > 2 else 0


def _warmed_up(decay: Callable[[int, int], float]) -> Callable[[int, int], float]:
    def factor(step: int, steps: int) -> float:
        warm_up = warm_up_steps(steps)
        return (step + 1) / warm_up if step < warm_up else decay(step - warm_up, steps - warm_up)

    return factor


# Each returns the share of the learning rate at a step (from 0) of a number of steps. `none` equals `constant`; it
# reads better for optimizers that need no schedule, such as Schedule-Free.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "constant": _constant,
    "warm-up-linear": _warmed_up(_linear),
    "warm-up-cosine": _warmed_up(_cosine),
    "none": _constant,
}

DEFAULT_SCHEDULE = "linear"

# The same decays in torch, as a user pastes them beside the optimizer.
_MODULE = "torch.optim.lr_scheduler"
_DECAYS = {
    "linear": _MODULE + ".LinearLR({optimizer}, 1.0, 0.0, total_iters={steps})",
    "cosine": _MODULE + ".CosineAnnealingLR({optimizer}, T_max={steps})",
}


def check_schedule(name: str) -> str:
    """Return the name of a schedule.

    Raises:
        SettingError: If no schedule has this name.
    """
    if name not in SCHEDULES:
        raise SettingError(
            f"thalweg: the schedule must be one of {', '.join(SCHEDULES)}, got {name!r}. {nearest(name, SCHEDULES)}"
        )
    return name


@dataclass(frozen=True)
class TrainingSchedule:
    """Length of a training, its learning rate schedule and its evaluations.

    Attributes:
        steps: Optimizer steps.
        schedule: Name of the learning rate schedule, a key of ``SCHEDULES``.
        num_evaluations: Number of evaluations after the start, evenly spaced; the model is also evaluated at the start.

    Example:
        >>> schedule = TrainingSchedule(steps=8, schedule="linear", num_evaluations=4)
        >>> schedule.evaluation_steps()
        [0, 2, 4, 6, 8]
        >>> schedule.lr_factor(2)
        0.75
    """

    steps: int
    schedule: str
    num_evaluations: int = 16

    def lr_factor(self, step: int) -> float:
        """Return the share of the learning rate at a step, counted from 0."""
        return SCHEDULES[self.schedule](step, self.steps)

    def evaluation_steps(self) -> list[int]:
        """Return the numbers of steps after which the model is evaluated: 0, ..., ``steps``."""
        return sorted({round(self.steps * k / self.num_evaluations) for k in range(self.num_evaluations + 1)})

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as plain JSON, for the store."""
        return {"steps": self.steps, "schedule": self.schedule, "looks": self.num_evaluations}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "TrainingSchedule":
        """Return the schedule that ``to_json`` stored."""
        return cls(stored["steps"], stored["schedule"], stored["looks"])

    def line_of_code(self, optimizer: str = "optimizer", scheduler: str = "scheduler") -> str | None:
        """Return the Python line that makes the torch scheduler; None if the learning rate is constant.

        Args:
            optimizer: Name of the variable that holds the optimizer.
            scheduler: Name of the variable that gets the scheduler.
        """
        decay = self.schedule.removeprefix("warm-up-")
        if decay not in _DECAYS:
            return None
        warm_up = 0 if decay == self.schedule else warm_up_steps(self.steps)
        if not warm_up:
            return f"{scheduler} = " + _DECAYS[decay].format(optimizer=optimizer, steps=self.steps)
        first = f"{_MODULE}.LinearLR({optimizer}, {1 / warm_up:.17g}, 1.0, total_iters={warm_up - 1})"
        then = _DECAYS[decay].format(optimizer=optimizer, steps=self.steps - warm_up)
        return f"{scheduler} = {_MODULE}.SequentialLR({optimizer}, [{first}, {then}], milestones=[{warm_up}])"
