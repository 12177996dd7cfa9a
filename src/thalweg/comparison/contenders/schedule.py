"""TrainingSchedule: the length of a training, its learning rate schedule, and when the model is evaluated."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.errors import SettingError, nearest

STEP_DEFAULTS = (0.3, 0.1)  # share of the training between two drops of the learning rate, and the factor of a drop
ONE_CYCLE_PEAK, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25e4  # torch's: place of the peak, and factors
WARM_UP_SHARE = 0.05  # of the steps, in the schedules that have a warm-up


def _linear(step: int, steps: int) -> float:
    return 1 - step / steps


def _cosine(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * step / steps)) / 2


def _constant(step: int, steps: int) -> float:
    return 1.0


def _one_cycle(step: int, steps: int) -> float:
    """Return the factor of torch's OneCycleLR at its defaults: up to the learning rate, then down to nearly nothing."""
    peak, last = ONE_CYCLE_PEAK * steps - 1, steps - 1
    if step <= peak:
        return _cosine_between(ONE_CYCLE_START, 1.0, step / peak if peak else 1.0)
    return _cosine_between(1.0, ONE_CYCLE_END, (step - peak) / (last - peak))


def _cosine_between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def step_settings(name: str) -> tuple[float, float] | None:
    """Return the share of the training between two drops, and the factor of a drop, of ``step:0.3:0.1``.

    Args:
        name: Name of a schedule. ``"step"`` alone has the defaults, ``"step:0.5"`` that of the factor.

    Returns:
        The two numbers; None if this is no schedule of steps.

    Raises:
        SettingError: If a number is missing or not between 0 and 1.
    """
    kind, *texts = name.split(":")
    if kind != "step":
        return None
    try:
        share, factor = [*map(float, texts), *STEP_DEFAULTS[len(texts) :]]
    except ValueError:
        share = factor = math.nan
    if not (0 < share < 1 and 0 < factor < 1):
        raise SettingError(
            "thalweg: a schedule of steps must read step:SHARE:FACTOR, both between 0 and 1, "
            f"got {name!r}. step:0.3:0.1 makes the learning rate a tenth at 30, 60 and 90 % of the training."
        )
    return share, factor


def step_size(share: float, steps: int) -> int:
    """Return the number of steps between two drops of the learning rate."""
    return max(1, round(share * steps))


def lr_factor(name: str, step: int, steps: int) -> float:
    """Return the share of the learning rate at a step, from 0, of a schedule of a number of steps."""
    if settings := step_settings(name):
        share, factor = settings
        return factor ** (step // step_size(share, steps))
    return SCHEDULES[name](step, steps)


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
    "onecycle": _one_cycle,
    "none": _constant,
}

DEFAULT_SCHEDULE = "linear"

# The same decays in torch, as a user pastes them beside the optimizer.
_MODULE = "torch.optim.lr_scheduler"
_DECAYS = {
    "linear": _MODULE + ".LinearLR({optimizer}, 1.0, 0.0, total_iters={steps})",
    "cosine": _MODULE + ".CosineAnnealingLR({optimizer}, T_max={steps})",
    # The momentum stays: it is a setting of its own, which is searched.
    "onecycle": _MODULE + '.OneCycleLR({optimizer}, [group["lr"] for group in {optimizer}.param_groups], '
    "total_steps={steps}, cycle_momentum=False)",
}


def check_schedule(name: str) -> str:
    """Return the name of a schedule.

    Raises:
        SettingError: If no schedule has this name.
    """
    if isinstance(name, str) and step_settings(name):
        return name
    if name not in SCHEDULES:
        known = [*SCHEDULES, "step:0.3:0.1"]
        raise SettingError(
            f"thalweg: the schedule must be one of {', '.join(known)}, got {name!r}. {nearest(str(name), known)}"
        )
    return name


@dataclass(frozen=True)
class TrainingSchedule:
    """Length of a training, its learning rate schedule and its evaluations.

    Attributes:
        steps: Optimizer steps.
        schedule: Name of the learning rate schedule, a key of ``SCHEDULES``, or ``step:0.3:0.1``.
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
        return lr_factor(self.schedule, step, self.steps)

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
        if settings := step_settings(self.schedule):
            size, factor = step_size(settings[0], self.steps), settings[1]
            return f"{scheduler} = {_MODULE}.StepLR({optimizer}, step_size={size}, gamma={factor!r})"
        decay = self.schedule.removeprefix("warm-up-")
        if decay not in _DECAYS:
            return None
        warm_up = 0 if decay == self.schedule else warm_up_steps(self.steps)
        if not warm_up:
            return f"{scheduler} = " + _DECAYS[decay].format(optimizer=optimizer, steps=self.steps)
        first = f"{_MODULE}.LinearLR({optimizer}, {1 / warm_up:.17g}, 1.0, total_iters={warm_up - 1})"
        then = _DECAYS[decay].format(optimizer=optimizer, steps=self.steps - warm_up)
        return f"{scheduler} = {_MODULE}.SequentialLR({optimizer}, [{first}, {then}], milestones=[{warm_up}])"
