"""Trajectory: the points of an optimizer on a surface, with the steps at which it diverges or reaches a minimum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.parts import as_plain_json
from thalweg.trajectories.surfaces import Point, Surface

TOLERANCE = 0.01  # of the diagonal of the frame: a point that is nearer to a minimum has reached it
FAR = 10.0  # diagonals from the center of the frame: a point that is farther away has diverged


@dataclass(frozen=True)
class Trajectory:
    """A path over a surface.

    Attributes:
        points: The points, the start first; up to the step at which the path diverged.
        heights: The height of each point, without noise.
        diverged_at: The first step at which the point or its height is not finite, or the point is ten diagonals of the
            frame away from its center; None if there is none.
        reached_at: The first step from which on all points are near a minimum, within one hundredth of the diagonal;
            None if the path does not end there, or the minima are unknown.
    """

    points: tuple[Point, ...]
    heights: tuple[float, ...]
    diverged_at: int | None
    reached_at: int | None

    @property
    def final_height(self) -> float:
        """The height at the end; infinite if the path diverged."""
        return math.inf if self.diverged_at is not None else self.heights[-1]


@dataclass(frozen=True)
class OptimizerPaths:
    """The paths of one optimizer, one from each start.

    Attributes:
        name: The optimizer, with its settings.
        lr: The learning rate of all paths.
        tried: The learning rates among which it was chosen; empty if it was not chosen.
        is_matrix: True if the optimizer takes the point as a matrix of one row.
        trajectories: The paths, in the order of the starts.
    """

    name: str
    lr: float
    tried: tuple[float, ...]
    is_matrix: bool
    trajectories: tuple[Trajectory, ...]

    @property
    def is_at_end(self) -> bool:
        """True if the chosen learning rate is the lowest or the highest that was tried: a better one may lie beyond."""
        return len(self.tried) > 1 and self.lr in (self.tried[0], self.tried[-1])


@dataclass(frozen=True)
class Trajectories:
    """The paths of several optimizers over one surface.

    Attributes:
        surface: The surface.
        starts: The first points.
        steps: Number of steps of each path.
        noise: Standard deviation of the noise of each coordinate of the gradient.
        seed: Seed of the noise.
        optimizers: The paths, by optimizer.

    Example:
        >>> from thalweg.trajectories import trace
        >>> trace("quadratic", "momentum:lr=0.5", steps=100).optimizers[0].trajectories[0].reached_at
        54
    """

    surface: Surface
    starts: tuple[Point, ...]
    steps: int
    noise: float
    seed: int
    optimizers: tuple[OptimizerPaths, ...]

    def gap(self, height: float) -> float:
        """Return a height above the minimum, not below 0; the height itself if the minimum is unknown."""
        return height if self.surface.best is None else max(0.0, height - self.surface.best)

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain JSON."""
        return as_plain_json(
            {
                "surface": self.surface.name,
                "formula": self.surface.formula,
                "minima": self.surface.minima,
                "best": self.surface.best,
                "starts": self.starts,
                "steps": self.steps,
                "noise": self.noise,
                "seed": self.seed,
                "tolerance": TOLERANCE * self.surface.diagonal,
                "optimizers": [
                    {
                        "name": paths.name,
                        "lr": paths.lr,
                        "lrs_tried": paths.tried,
                        "point_as": "row matrix" if paths.is_matrix else "vector",
                        "paths": [
                            {
                                "final_height": trajectory.final_height,
                                "reached_at": trajectory.reached_at,
                                "diverged_at": trajectory.diverged_at,
                                "points": trajectory.points,
                                "heights": trajectory.heights,
                            }
                            for trajectory in paths.trajectories
                        ],
                    }
                    for paths in self.optimizers
                ],
            }
        )


def trajectory_of(surface: Surface, points: Sequence[Point]) -> Trajectory:
    """Return the trajectory of some points: cut where it diverges, with the heights of the others.

    Args:
        surface: The surface.
        points: The points, the start first.
    """
    heights = surface.height(torch.tensor(points, dtype=torch.float64)).tolist()
    diverged_at = next(
        (step for step, point in enumerate(points) if step and _is_lost(surface, point, heights[step])), None
    )
    end = len(points) if diverged_at is None else diverged_at + 1
    if diverged_at is not None and not all(map(math.isfinite, (*points[diverged_at], heights[diverged_at]))):
        end -= 1  # a point that is not finite has no place
    reached_at = None if diverged_at is not None else _reached_at(surface, points)
    return Trajectory(tuple(points[:end]), tuple(heights[:end]), diverged_at, reached_at)


def _is_lost(surface: Surface, point: Point, height: float) -> bool:
    if not all(map(math.isfinite, (*point, height))):
        return True
    return math.dist(point, surface.center) > FAR * surface.diagonal


def _reached_at(surface: Surface, points: Sequence[Point]) -> int | None:
    tolerance = TOLERANCE * surface.diagonal
    reached_at = None
    for step in reversed(range(len(points))):
        if not any(math.dist(points[step], minimum) <= tolerance for minimum in surface.minima):
            break
        reached_at = step
    return reached_at
