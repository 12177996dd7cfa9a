"""Surfaces: functions of two numbers on which the path of an optimizer can be seen, each with its frame and minima."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from thalweg.errors import SettingError, UnknownNameError, nearest, shown
from thalweg.tasks.built_in.formulas import (
    ackley_height,
    beale_height,
    himmelblau_height,
    quadratic_height,
    rastrigin_height,
    rosenbrock_height,
    saddle_height,
)
from thalweg.tasks.catalogue import module_of_file

Point = tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """A function of two numbers, and the frame in which it is drawn.

    Attributes:
        name: Name on the command line.
        title: Name in a picture.
        about: One line on the difficulty of the surface.
        formula: The formula as text.
        height: Takes points of shape (..., 2) and returns heights of shape (...). torch must be able to differentiate
            it.
        x: Left and right end of the frame.
        y: Lower and upper end of the frame.
        start: The point from which paths start.
        minima: The lowest points; empty if they are unknown.
        best: The height of the lowest points; None if it is unknown.
        steps: Number of steps of a picture.

    Raises:
        SettingError: If the frame is empty, or ``height`` does not map points to heights.

    Example:
        >>> bowl = Surface("bowl", "Bowl", "round", "x² + y²", lambda point: (point**2).sum(-1), start=(2.0, 1.0))
        >>> bowl.height_at((2.0, 1.0))
        5.0
    """

    name: str
    title: str
    about: str
    formula: str
    height: Callable[[Tensor], Tensor]
    x: tuple[float, float] = (-3.0, 3.0)
    y: tuple[float, float] = (-3.0, 3.0)
    start: Point = (-2.0, 2.0)
    minima: tuple[Point, ...] = ()
    best: float | None = None
    steps: int = 100

    def __post_init__(self) -> None:
        for axis in ("x", "y"):
            low, high = getattr(self, axis)
            if not -math.inf < low < high < math.inf:
                raise SettingError(f"{self.name}: {axis} must be (low, high) with low < high, got {low!r}, {high!r}.")
        try:
            shape = tuple(self.height(torch.ones(2, 3, 2, dtype=torch.float64)).shape)
        except Exception as error:
            raise SettingError(
                f"{self.name}: height must map points of shape (..., 2) to heights of shape (...), got "
                f"{type(error).__name__}: {error}. Use point[..., 0] and point[..., 1]."
            ) from error
        if shape != (2, 3):
            raise SettingError(
                f"{self.name}: height must map points of shape (..., 2) to heights of shape (...), got {shape} for "
                "(2, 3, 2). Use point[..., 0] and point[..., 1]."
            )

    @property
    def diagonal(self) -> float:
        """The length of the diagonal of the frame."""
        return math.hypot(self.x[1] - self.x[0], self.y[1] - self.y[0])

    @property
    def center(self) -> Point:
        """The center of the frame."""
        return (self.x[0] + self.x[1]) / 2, (self.y[0] + self.y[1]) / 2

    def holds(self, point: Point) -> bool:
        """Return True if a point is in the frame."""
        return self.x[0] <= point[0] <= self.x[1] and self.y[0] <= point[1] <= self.y[1]

    def height_at(self, point: Point) -> float:
        """Return the height at one point."""
        return float(self.height(torch.tensor(point, dtype=torch.float64)))


_TILT = math.radians(30)
_LONG, _STEEP = (math.cos(_TILT), math.sin(_TILT)), (-math.sin(_TILT), math.cos(_TILT))
_CONDITION = 50
_CURVATURE = torch.tensor(
    [[_LONG[i] * _LONG[j] / _CONDITION + _STEEP[i] * _STEEP[j] for j in (0, 1)] for i in (0, 1)], dtype=torch.float64
)


def _tilted_bowl(point: Tensor) -> Tensor:
    return quadratic_height(point, _CURVATURE.to(point.dtype))


_ALL = (
    Surface(
        "rosenbrock",
        "Rosenbrock",
        "a narrow curved valley",
        "(1 - x)² + 100 (y - x²)²",
        rosenbrock_height,
        x=(-2.0, 2.0),
        y=(-1.0, 3.0),
        start=(-1.2, 1.0),
        minima=((1.0, 1.0),),
        best=0.0,
        steps=200,
    ),
    Surface(
        "quadratic",
        "Ill-conditioned quadratic",
        f"a tilted bowl, {_CONDITION} times as steep across as along",
        f"½ (u²/{_CONDITION} + v²), u and v turned by 30°",
        _tilted_bowl,
        x=(-4.0, 4.0),
        y=(-4.0, 4.0),
        start=(-3.4, -0.6),
        minima=((0.0, 0.0),),
        best=0.0,
    ),
    Surface(
        "himmelblau",
        "Himmelblau",
        "four minima of the same height",
        "(x² + y - 11)² + (x + y² - 7)²",
        himmelblau_height,
        x=(-6.0, 6.0),
        y=(-6.0, 6.0),
        start=(0.0, -1.2),
        minima=((3.0, 2.0), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127)),
        best=0.0,
    ),
    Surface(
        "beale",
        "Beale",
        "a flat valley between steep corners",
        "(1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²",
        beale_height,
        x=(-4.5, 4.5),
        y=(-4.5, 4.5),
        start=(-2.0, -1.0),
        minima=((3.0, 0.5),),
        best=0.0,
        steps=200,
    ),
    Surface(
        "rastrigin",
        "Rastrigin",
        "a bowl with a minimum near each pair of whole numbers",
        "20 + x² + y² - 10 cos 2πx - 10 cos 2πy",
        rastrigin_height,
        x=(-3.5, 3.5),
        y=(-3.5, 3.5),
        start=(-2.4, 2.7),
        minima=((0.0, 0.0),),
        best=0.0,
    ),
    Surface(
        "ackley",
        "Ackley",
        "ripples on a funnel",
        "20 (1 - exp(-0.2 √(½ (x² + y²)))) + e - exp(½ (cos 2πx + cos 2πy))",
        ackley_height,
        x=(-4.0, 4.0),
        y=(-4.0, 4.0),
        start=(2.5, -1.4),
        minima=((0.0, 0.0),),
        best=0.0,
    ),
    Surface(
        "saddle",
        "Saddle",
        "a saddle between two minima",
        "½ x² - ½ y² + ¼ y⁴",
        saddle_height,
        x=(-2.0, 2.0),
        y=(-1.6, 1.6),
        start=(-1.7, 0.001),
        minima=((0.0, -1.0), (0.0, 1.0)),
        best=-0.25,
    ),
)

SURFACES: dict[str, Surface] = {surface.name: surface for surface in _ALL}


def find_surface(surface: str | Surface | Callable[[Tensor], Tensor]) -> Surface:
    """Return the surface of a name, of a function, or of a function in a file; a surface as it is.

    Args:
        surface: A name from ``SURFACES``; ``path/to/file.py:name``; a function that takes points of shape (..., 2) and
            returns heights of shape (...), drawn from -3 to 3; or a surface of your own.

    Raises:
        UnknownNameError: If no surface has this name.
        TaskError: If the file cannot be imported.
        SettingError: If the function does not map points to heights.
    """
    if isinstance(surface, Surface):
        return surface
    if isinstance(surface, str) and surface in SURFACES:
        return SURFACES[surface]
    if isinstance(surface, str) and ".py:" in surface:
        return _from_file(surface)
    if callable(surface):
        name = getattr(surface, "__name__", type(surface).__name__)
        return Surface(name, name, "a function of yours", "", surface)
    advice = nearest(surface, SURFACES) if isinstance(surface, str) else "Pass 'rosenbrock', say."
    raise UnknownNameError(f"show: the surface must be one of {', '.join(SURFACES)}, got {shown(surface)}. {advice}")


def _from_file(text: str) -> Surface:
    path, _, name = text.rpartition(":")
    module = module_of_file(Path(path))
    value = getattr(module, name, None)
    if not isinstance(value, Surface) and not callable(value):
        names = [key for key, item in vars(module).items() if isinstance(item, Surface) or inspect.isfunction(item)]
        advice = nearest(name, names) if names else "It defines no function."
        raise UnknownNameError(f"{path}: the file must define the function {shown(name)}, and does not. {advice}")
    return find_surface(value)
