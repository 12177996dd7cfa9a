"""Surrogate: a Gaussian process over the settings of all contenders at once.

The covariance of two settings has a part that all contenders share, a part of the contender's own, and an offset of
each contender. All parts compare coordinates relative to the starting points (`search_space`), so a contender that was
never trained is expected to be good where the others are. Length scales and the share of the common part are chosen by
their marginal likelihood from a short list: a fit of a hundred trainings takes milliseconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

LR_LENGTHS = (0.25, 0.5)  # decades of the learning rate over which scores resemble one another
SHARES = (0.2, 0.5)  # of the variance that all contenders share
OFFSET_SHARE = 0.3  # of the variance that is the contender's own level
ORDER_LENGTHS = {1: 1.0, 2: 0.45, 3: 1.2}  # shares of a range
NOISE = 0.02  # of the variance: ripples that no smooth model shows


@dataclass(frozen=True)
class Points:
    """Settings as the model sees them.

    Attributes:
        places: Coordinates relative to the starting points, ``(points, settings)``.
        contenders: The number of the contender of each point, ``(points,)``.
    """

    places: np.ndarray
    contenders: np.ndarray

    def joined(self, more: "Points") -> "Points":
        """Return these points and more."""
        return Points(np.vstack([self.places, more.places]), np.concatenate([self.contenders, more.contenders]))


@dataclass(frozen=True)
class _Kernel:
    lengths: np.ndarray
    shared: float

    def __call__(self, a: Points, b: Points) -> np.ndarray:
        left, right = a.places / self.lengths, b.places / self.lengths
        squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * left @ right.T
        distances = np.sqrt(np.maximum(5 * squares, 0.0))
        smooth = (1 + distances + distances**2 / 3) * np.exp(-distances)  # Matern 5/2
        same = a.contenders[:, None] == b.contenders[None, :]
        own = 1 - self.shared - OFFSET_SHARE
        return np.asarray(self.shared * smooth + same * (own * smooth + OFFSET_SHARE))


class Surrogate:
    """The model after some trainings.

    Args:
        points: The settings that were trained, at least one.
        scores: Their scores; lower is better.
        orders: The order of each coordinate; 1 is the learning rate, in decades.
    """

    def __init__(self, points: Points, scores: Sequence[float], orders: Sequence[int]) -> None:
        self.points = points
        values = np.asarray(scores, dtype=float)
        self._center, spread = float(values.mean()), float(values.std())
        self._spread = spread if spread > 0 else 1.0
        self._values = (values - self._center) / self._spread
        fits = [self._fit(kernel) for kernel in _kernels(orders)]
        self._evidence, self._kernel, self._factor, self._weights = max(fits, key=lambda fit: fit[0])

    def _fit(self, kernel: _Kernel) -> tuple[float, _Kernel, tuple[np.ndarray, bool], np.ndarray]:
        covariance = kernel(self.points, self.points)
        covariance[np.diag_indices_from(covariance)] += NOISE
        factor = cho_factor(covariance, lower=True)
        weights = cho_solve(factor, self._values)
        variance = max(float(self._values @ weights) / len(weights), 1e-6)
        evidence = -len(weights) / 2 * math.log(variance) - float(np.log(np.diag(factor[0])).sum())
        return evidence, kernel, factor, weights

    def predict(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean of the scores at these points and their covariance, ``(points, points)``."""
        across = self._kernel(self.points, points)
        reduced = solve_triangular(self._factor[0], across, lower=True)
        covariance = self._kernel(points, points) - reduced.T @ reduced
        return self._center + self._spread * (across.T @ self._weights), self._spread**2 * covariance


def _kernels(orders: Sequence[int]) -> list[_Kernel]:
    return [
        _Kernel(np.array([length if order == 1 else ORDER_LENGTHS[order] for order in orders]), shared)
        for length, shared in product(LR_LENGTHS, SHARES)
    ]
