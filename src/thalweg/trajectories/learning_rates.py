"""Learning rates: those that are tried for a picture, and the choice among them."""

import math
from collections.abc import Sequence

from thalweg.comparison.contenders.contender import Contender
from thalweg.errors import SettingError
from thalweg.trajectories.surfaces import Surface
from thalweg.trajectories.trajectory import Trajectory

GRID = (*(float(f"{digit}e{exponent}") for exponent in range(-5, 1) for digit in (1, 2, 5)), 10.0)
_RESOLUTION = 1e-12  # of a height: below it two learning rates are equally good


def learning_rates_of(contender: Contender, lr: float | None) -> tuple[float, ...]:
    """Return the learning rates that are tried for a contender; a single one is not chosen.

    A learning rate of the user's, one that a contender pins, and one that multiplies an estimate of the step size stay
    as they are. A range of the user's limits the grid.

    Args:
        contender: The contender.
        lr: The learning rate of all contenders; None if each has its own.

    Raises:
        SettingError: If a learning rate is out of its bounds.
    """
    if "lr" in contender.pinned:
        return (float(contender.rule.settings()["lr"]),)
    if lr is not None:
        contender.rule.with_(lr=lr)
        return (lr,)
    if bounds := contender.ranges.get("lr"):
        inside = {value for value in GRID if bounds.low < value < bounds.high}
        return tuple(sorted(inside | {bounds.low, bounds.high}))
    rule = contender.thalweg_rule
    if rule is not None and rule.traits.estimates_lr:
        return (float(rule.settings()["lr"]),)
    return tuple(value for value in GRID if _is_allowed(contender, value))


def _is_allowed(contender: Contender, value: float) -> bool:
    try:
        contender.rule.with_(lr=value)
    except SettingError:
        return False
    return True


def best_of(surface: Surface, candidates: Sequence[Sequence[Trajectory]]) -> int:
    """Return the index of the learning rate whose paths end lowest, in the mean of the logarithms over the starts.

    A rate whose paths all stay in the frame and never climb above their starts comes before any other: a wild jump that
    happens to land well is no merit of a learning rate.

    Args:
        surface: The surface.
        candidates: The paths from all starts, for each learning rate.
    """
    scores = [
        (not all(_is_steady(surface, path) for path in paths), sum(_score(surface, path) for path in paths))
        for paths in candidates
    ]
    return min(range(len(scores)), key=scores.__getitem__)


def _is_steady(surface: Surface, trajectory: Trajectory) -> bool:
    if trajectory.diverged_at is not None:
        return False
    start, highest = trajectory.points[0], max(trajectory.heights)
    inside = all(surface.holds(point) for point in trajectory.points) or not surface.holds(start)
    return inside and highest <= trajectory.heights[0]


def _score(surface: Surface, trajectory: Trajectory) -> float:
    """Return the mean height of the last tenth of a path: of a path with noise, the last point alone is luck."""
    if trajectory.diverged_at is not None:
        return math.inf
    last = trajectory.heights[-max(1, len(trajectory.heights) // 10) :]
    mean = math.fsum(last) / len(last)
    return mean if surface.best is None else math.log(max(mean - surface.best, 0.0) + _RESOLUTION)
