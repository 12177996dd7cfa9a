"""Analytic surfaces: functions whose minimum is known, with no data and no noise. `passes` counts steps."""

import math

import torch
from torch import Tensor, nn

from thalweg.errors import SettingError
from thalweg.tasks.data import Batch
from thalweg.tasks.task import Task


def _value(model: nn.Module, batch: Batch) -> Tensor:
    return model()


class Quadratic(nn.Module):
    """f(θ) = ½ (θ - θ*)ᵀ A (θ - θ*); the eigenvalues of A go from 1 / condition to 1, evenly in their logarithm.

    A is turned by a fixed random rotation and θ* is a fixed random point, so that no method gains from working along
    the axes or toward the origin.
    """

    curvature: Tensor
    minimum: Tensor

    def __init__(self, condition: float, dimensions: int) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.randn(dimensions))
        generator = torch.Generator().manual_seed(0)
        rotation, _ = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64))
        eigenvalues = torch.logspace(0, 1, dimensions, base=1 / condition, dtype=torch.float64)
        curvature = rotation @ torch.diag(eigenvalues) @ rotation.T
        self.register_buffer("curvature", curvature.float())
        self.register_buffer("minimum", torch.randn(dimensions, generator=generator))

    def forward(self) -> Tensor:
        away = self.point - self.minimum
        return 0.5 * away @ self.curvature @ away


class Rosenbrock(nn.Module):
    """f(x, y) = (1 - x)² + 100 (y - x²)²: a curved valley with its floor at (1, 1). Starts near (-1.2, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor([-1.2, 1.0]) + 0.1 * torch.randn(2))

    def forward(self) -> Tensor:
        x, y = self.point[0], self.point[1]
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def quadratic(condition: float = 100.0, dimensions: int = 20) -> Task:
    """A quadratic bowl of a given condition number, the largest curvature over the smallest."""
    if not 1 <= condition < math.inf:
        raise SettingError(f"quadratic: condition must be a number >= 1, got {condition!r}.")
    if not 1 <= dimensions < math.inf or dimensions != int(dimensions):
        raise SettingError(f"quadratic: dimensions must be a whole number, 1 or more, got {dimensions!r}.")
    return Task(
        name="quadratic" if condition == 100 and dimensions == 20 else f"quadratic:{condition=:g},{dimensions=:g}",
        about=f"a bowl in {dimensions:g} dimensions with condition number {condition:g}",
        model=lambda: Quadratic(condition, int(dimensions)),
        loss=_value,
        metric_name="height",
        passes=300,
        optimum=0.0,
    )


def rosenbrock() -> Task:
    """Rosenbrock's curved valley, in two dimensions."""
    return Task(
        name="rosenbrock",
        about="a narrow curved valley in two dimensions, minimum at (1, 1)",
        model=Rosenbrock,
        loss=_value,
        metric_name="height",
        passes=1000,
        optimum=0.0,
    )
