"""Analytic surfaces: functions whose minimum is known. Without data, ``passes`` counts optimizer steps."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from thalweg.errors import SettingError
from thalweg.tasks.built_in.formulas import ackley_height, quadratic_height, rastrigin_height, rosenbrock_height
from thalweg.tasks.data import Batch, Splits
from thalweg.tasks.task import Task

_NOISE_PAIRS = 128


def _value(model: nn.Module, batch: Batch) -> Tensor:
    return model(*batch)


def _curvature(condition: float, dimensions: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
    """Return the curvature A, or a power of it, in float64.

    Its eigenvalues go from 1 / condition to 1, evenly in their logarithm, and its axes are rotated at random.
    """
    rotation, _ = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64))
    eigenvalues = torch.logspace(0, 1, dimensions, base=1 / condition, dtype=torch.float64)
    return rotation @ torch.diag(eigenvalues**power) @ rotation.T


class Quadratic(nn.Module):
    """f(θ) = ½ (θ - θ*)ᵀ A (θ - θ*); the eigenvalues of A go from 1 / condition to 1, evenly in their logarithm.

    A fixed random rotation turns A, and θ* is a fixed random point, so that no method gains from working along the axes
    or toward the origin. Pulls of shape (examples, dimensions) with mean g add gᵀ (θ - θ*), as noise of the gradient.
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
        offset = self.point - self.minimum
        height = quadratic_height(offset, self.curvature)
        return height if pulls is None else height + pulls.mean(0) @ offset


class Rosenbrock(nn.Module):
    """f(x, y) = (1 - x)² + 100 (y - x²)²: a curved valley with its minimum at (1, 1). Starts near (-1.2, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor([-1.2, 1.0]) + 0.1 * torch.randn(2))

    def forward(self) -> Tensor:
        return rosenbrock_height(self.point)


class Rastrigin(nn.Module):
    """f(θ) = Σ (θ_i² + 10 - 10 cos 2π θ_i): a bowl with a minimum near each point of whole numbers, the lowest at 0.

    Starts anywhere between -4 and 4.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.point = nn.Parameter(8 * torch.rand(dimensions) - 4)

    def forward(self) -> Tensor:
        return rastrigin_height(self.point)


class Ackley(nn.Module):
    """f(θ) = 20 (1 - exp(-|θ| / 5√n)) + e - exp(Σ cos(2π θ_i) / n): ripples on a funnel, the lowest minimum at 0.

    Starts anywhere between -4 and 4.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.point = nn.Parameter(8 * torch.rand(dimensions) - 4)

    def forward(self) -> Tensor:
        return ackley_height(self.point)


def _check_condition(task_name: str, condition: float) -> None:
    if not 1 <= condition < math.inf:
        raise SettingError(f"{task_name}: condition must be a number >= 1, got {condition!r}.")


def _check_dimensions(task_name: str, dimensions: float) -> None:
    if not 1 <= dimensions < math.inf or dimensions != int(dimensions):
        raise SettingError(f"{task_name}: dimensions must be a whole number, 1 or more, got {dimensions!r}.")


def quadratic(condition: float = 100.0, dimensions: int = 20) -> Task:
    """Minimize a quadratic bowl. Its condition number is the largest curvature divided by the smallest.

    Args:
        condition: Condition number, >= 1.
        dimensions: Number of dimensions, a whole number >= 1.
    """
    _check_condition("quadratic", condition)
    _check_dimensions("quadratic", dimensions)
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
    """Minimize a quadratic bowl in 20 dimensions with noisy gradients. The noise cancels over a complete pass.

    Args:
        condition: Condition number, >= 1.
        noise: Standard deviation of an example's gradient noise, relative to the square root of the curvature; >= 0.
    """
    _check_condition("noisy-quadratic", condition)
    if not 0 <= noise < math.inf:
        raise SettingError(f"noisy-quadratic: noise must be a number >= 0, got {noise!r}.")

    def pulls() -> Splits:
        # The covariance of an example's gradient is noise² times the curvature, as in the noisy quadratic model of
        # Zhang et al. 2019 (arXiv:1907.04164). For each pull there is its opposite, so that their sum is zero.
        spread = _curvature(condition, 20, torch.Generator().manual_seed(0), power=0.5)
        directions = torch.randn(_NOISE_PAIRS, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        half = (noise * directions @ spread).float()
        examples = (torch.cat([half, -half]),)
        return Splits(
            examples, examples, examples
        )  # the minimum is the same for all examples, so no split needs its own

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
    """Minimize Rosenbrock's function, a curved valley in two dimensions."""
    return Task(
        name="rosenbrock",
        about="a narrow curved valley in two dimensions, minimum at (1, 1)",
        model=Rosenbrock,
        loss=_value,
        metric_name="height",
        passes=1000,
        optimum=0.0,
    )


def rastrigin(dimensions: int = 2) -> Task:
    """Minimize Rastrigin's function, a bowl with many minima.

    Args:
        dimensions: Number of dimensions, a whole number >= 1.
    """
    return _with_many_minima(
        "rastrigin", Rastrigin, "a bowl with many minima in {} dimensions, the lowest at 0", dimensions
    )


def ackley(dimensions: int = 2) -> Task:
    """Minimize Ackley's function, a funnel with ripples.

    Args:
        dimensions: Number of dimensions, a whole number >= 1.
    """
    return _with_many_minima(
        "ackley", Ackley, "a funnel with ripples in {} dimensions, the lowest minimum at 0", dimensions
    )


def _with_many_minima(name: str, surface: Callable[[int], nn.Module], about: str, dimensions: int) -> Task:
    _check_dimensions(name, dimensions)
    return Task(
        name=name if dimensions == 2 else f"{name}:{dimensions=:g}",
        about=about.format(f"{dimensions:g}"),
        model=lambda: surface(int(dimensions)),
        loss=_value,
        metric_name="height",
        passes=300,
        optimum=0.0,
    )
