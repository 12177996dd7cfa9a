"""Analytic surfaces: functions whose minimum is known. `passes` counts steps where there are no data."""

import math

import torch
from torch import Tensor, nn

from thalweg.errors import SettingError
from thalweg.tasks.data import Batch, Splits
from thalweg.tasks.task import Task

_NOISE_PAIRS = 128


def _value(model: nn.Module, batch: Batch) -> Tensor:
    return model(*batch)


def _curvature(condition: float, dimensions: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
    """A, or a power of it: eigenvalues from 1 / condition to 1, evenly in their logarithm; turned; float64."""
    rotation, _ = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64))
    eigenvalues = torch.logspace(0, 1, dimensions, base=1 / condition, dtype=torch.float64)
    return rotation @ torch.diag(eigenvalues**power) @ rotation.T


class Quadratic(nn.Module):
    """f(θ) = ½ (θ - θ*)ᵀ A (θ - θ*); the eigenvalues of A go from 1 / condition to 1, evenly in their logarithm.

    A is turned by a fixed random rotation and θ* is a fixed random point, so that no method gains from working along
    the axes or toward the origin. Given pulls (examples, dimensions), their mean g adds gᵀ (θ - θ*).
    """

    curvature: Tensor
    minimum: Tensor

    def __init__(self, condition: float, dimensions: int) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.randn(dimensions))
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("curvature", _curvature(condition, dimensions, generator).float())
        self.register_buffer("minimum", torch.randn(dimensions, generator=generator))

    def forward(self, pulls: Tensor | None = None) -> Tensor:
        away = self.point - self.minimum
        height = 0.5 * away @ self.curvature @ away
        return height if pulls is None else height + pulls.mean(0) @ away


class Rosenbrock(nn.Module):
    """f(x, y) = (1 - x)² + 100 (y - x²)²: a curved valley with its floor at (1, 1). Starts near (-1.2, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor([-1.2, 1.0]) + 0.1 * torch.randn(2))

    def forward(self) -> Tensor:
        x, y = self.point[0], self.point[1]
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _check_condition(who: str, condition: float) -> None:
    if not 1 <= condition < math.inf:
        raise SettingError(f"{who}: condition must be a number >= 1, got {condition!r}.")


def quadratic(condition: float = 100.0, dimensions: int = 20) -> Task:
    """A quadratic bowl of a given condition number, the largest curvature over the smallest."""
    _check_condition("quadratic", condition)
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


def noisy_quadratic(condition: float = 100.0, noise: float = 1.0) -> Task:
    """A quadratic bowl in 20 dimensions with noise in the gradients, which cancels over a whole pass."""
    _check_condition("noisy-quadratic", condition)
    if not 0 <= noise < math.inf:
        raise SettingError(f"noisy-quadratic: noise must be a number >= 0, got {noise!r}.")

    def pulls() -> Splits:
        # The covariance of an example's gradient is the curvature, as in the noisy quadratic model of Zhang et al. 2019
        # (arXiv:1907.04164), here times noise². Each pull has its opposite, so that all together pull nowhere.
        spread = _curvature(condition, 20, torch.Generator().manual_seed(0), power=0.5)
        drawn = torch.randn(_NOISE_PAIRS, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        half = (noise * drawn @ spread).float()
        examples = (torch.cat([half, -half]),)
        return Splits(examples, examples, examples)  # other examples would say the same of a point

    return Task(
        name="noisy-quadratic" if condition == 100 and noise == 1 else f"noisy-quadratic:{condition=:g},{noise=:g}",
        about=f"a bowl in 20 dimensions with condition number {condition:g} and noise {noise:g} in the gradients",
        model=lambda: Quadratic(condition, 20),
        loss=_value,
        data=pulls,
        metric_name="height",
        batch_size=8,
        passes=20,
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
