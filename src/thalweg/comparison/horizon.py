"""Horizon: how long a training is, how its learning rate moves, and when it is looked at."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from thalweg.errors import SettingError, nearest

# Each gives the share of the learning rate that a step (from 0) has out of so many steps.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda step, steps: 1.0,
    "linear": lambda step, steps: 1 - step / steps,
    "cosine": lambda step, steps: (1 + math.cos(math.pi * step / steps)) / 2,
}

# The same schedule for torch, to be pasted beside the optimizer.
LINES_OF_CODE = {
    "constant": None,
    "linear": "scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters={steps})",
    "cosine": "scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max={steps})",
}


def check_schedule(name: str) -> str:
    """The name, if there is such a schedule."""
    if name not in SCHEDULES:
        raise SettingError(
            f"thalweg: the schedule must be one of {', '.join(SCHEDULES)}, got {name!r}. {nearest(name, SCHEDULES)}"
        )
    return name


@dataclass(frozen=True)
class Horizon:
    """A training of so many steps; `looks` times along it, evenly, and at the start, the model is evaluated."""

    steps: int
    schedule: str
    looks: int = 16

    def lr_factor(self, step: int) -> float:
        """The share of the learning rate that this step (from 0) has."""
        return SCHEDULES[self.schedule](step, self.steps)

    def looked_at(self) -> list[int]:
        """After how many steps the model is evaluated: 0, ..., all."""
        return sorted({round(self.steps * look / self.looks) for look in range(self.looks + 1)})

    def line_of_code(self) -> str | None:
        """The scheduler to paste, or None where the learning rate stays constant."""
        line = LINES_OF_CODE[self.schedule]
        return line.format(steps=self.steps) if line else None
