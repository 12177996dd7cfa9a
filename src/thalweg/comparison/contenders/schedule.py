"""Horizon: how long a training is, how its learning rate moves, and when it is looked at."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.errors import SettingError, nearest

WARM_UP = 0.05  # of the steps, in the schedules that have one


def _linear(step: int, steps: int) -> float:
    return 1 - step / steps


def _cosine(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * step / steps)) / 2


def _constant(step: int, steps: int) -> float:
    return 1.0


def warm_up_steps(steps: int) -> int:
    """How many steps a warm-up takes, of so many."""
    return min(max(2, round(WARM_UP * steps)), steps - 1) if steps > 2 else 0


def _warmed(then: Callable[[int, int], float]) -> Callable[[int, int], float]:
    def factor(step: int, steps: int) -> float:
        warm = warm_up_steps(steps)
        return (step + 1) / warm if step < warm else then(step - warm, steps - warm)

    return factor


# Each gives the share of the learning rate that a step (from 0) has out of so many steps. `none` is for optimizers that
# need no schedule, as those called Schedule-Free: it reads better there than `constant`, which it equals.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "constant": _constant,
    "warm-up-linear": _warmed(_linear),
    "warm-up-cosine": _warmed(_cosine),
    "none": _constant,
}

# The same schedule for torch, to be pasted beside the optimizer, over so many steps.
_HOME = "torch.optim.lr_scheduler"
_LINES = {
    "linear": _HOME + ".LinearLR(optimizer, 1.0, 0.0, total_iters={steps})",
    "cosine": _HOME + ".CosineAnnealingLR(optimizer, T_max={steps})",
}


def check_schedule(name: str) -> str:
    """The name, if there is such a schedule."""
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
    """

    steps: int
    schedule: str
    num_evaluations: int = 16

    def lr_factor(self, step: int) -> float:
        """The share of the learning rate that this step (from 0) has."""
        return SCHEDULES[self.schedule](step, self.steps)

    def evaluation_steps(self) -> list[int]:
        """After how many steps the model is evaluated: 0, ..., all."""
        return sorted({round(self.steps * k / self.num_evaluations) for k in range(self.num_evaluations + 1)})

    def to_json(self) -> dict[str, Any]:
        """Return the schedule as plain JSON, for the store."""
        return {"steps": self.steps, "schedule": self.schedule, "looks": self.num_evaluations}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "TrainingSchedule":
        """Return the schedule that ``to_json`` stored."""
        return cls(stored["steps"], stored["schedule"], stored["looks"])

    def line_of_code(self) -> str | None:
        """The scheduler to paste, or None where the learning rate stays constant."""
        kind = self.schedule.removeprefix("warm-up-")
        if kind not in _LINES:
            return None
        warm = 0 if kind == self.schedule else warm_up_steps(self.steps)
        if not warm:
            return "scheduler = " + _LINES[kind].format(steps=self.steps)
        first = f"{_HOME}.LinearLR(optimizer, {1 / warm:.17g}, 1.0, total_iters={warm - 1})"
        then = _LINES[kind].format(steps=self.steps - warm)
        return f"scheduler = {_HOME}.SequentialLR(optimizer, [{first}, {then}], milestones=[{warm}])"
