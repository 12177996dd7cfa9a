"""Formulas of analytic surfaces: the height at a point, or at many points at once.

A point has shape (..., dimensions), its height shape (...). Himmelblau, Beale and the saddle have two dimensions.
"""

import math

import torch
from torch import Tensor


def quadratic_height(offset: Tensor, curvature: Tensor) -> Tensor:
    """Return ½ dᵀ A d of an offset d from the minimum and a symmetric curvature A."""
    return torch.linalg.vecdot(0.5 * offset @ curvature, offset)


def rosenbrock_height(point: Tensor) -> Tensor:
    """Return (1 - x)² + 100 (y - x²)²: a curved valley with its minimum at (1, 1)."""
    x, y = point[..., 0], point[..., 1]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def himmelblau_height(point: Tensor) -> Tensor:
    """Return (x² + y - 11)² + (x + y² - 7)²: four minima of the same height, 0."""
    x, y = point[..., 0], point[..., 1]
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def beale_height(point: Tensor) -> Tensor:
    """Return (1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²: a flat valley, minimum at (3, 0.5)."""
    x, y = point[..., 0], point[..., 1]
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def rastrigin_height(point: Tensor) -> Tensor:
    """Return Σ (θ_i² + 10 - 10 cos 2π θ_i): a bowl with a minimum near each point of whole numbers, the lowest at 0."""
    return (point**2 + 10 * (1 - torch.cos(2 * math.pi * point))).sum(-1)


def ackley_height(point: Tensor) -> Tensor:
    """Return 20 (1 - exp(-|θ| / 5√n)) + e - exp(Σ cos(2π θ_i) / n): ripples on a funnel, the lowest minimum at 0."""
    distance = torch.linalg.vector_norm(point, dim=-1) / math.sqrt(point.shape[-1])
    ripples = math.e - torch.exp(torch.cos(2 * math.pi * point).mean(-1))
    return 20 * (1 - torch.exp(-0.2 * distance)) + ripples


def saddle_height(point: Tensor) -> Tensor:
    """Return ½ x² - ½ y² + ¼ y⁴: a saddle at 0 between two minima of height -¼, at (0, -1) and (0, 1)."""
    x, y = point[..., 0], point[..., 1]
    return 0.5 * x**2 - 0.5 * y**2 + 0.25 * y**4
