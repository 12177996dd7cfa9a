"""A function with a good and a poor minimum, and how often an optimizer ends in the good one.

    f(x) = x⁴ - 4 x² + x

The optimizers are elementwise, so a vector of 1,000 starts is 1,000 trainings at once.
"""

import numpy as np

from lesson.numpy_optimizers import descend

STARTS = np.random.default_rng(0).uniform(-2, 2, 1000)
GOOD, POOR, BARRIER = np.sort(np.roots([4, 0, -8, 1]).real)[[0, 2, 1]]


def height(x):
    """Return f(x)."""
    return x**4 - 4 * x**2 + x


def slope(x, batch=None):
    """Return the derivative of f."""
    return 4 * x**3 - 8 * x + 1


def noisy_slope(scale, steps, seed=0):
    """Return the derivative plus normal noise that falls evenly from a scale to 0, as gradients of batches have."""
    random = np.random.default_rng(seed)
    scales = iter(np.linspace(scale, 0, steps))
    return lambda x, batch=None: slope(x) + next(scales) * random.standard_normal(len(x))


def ends(optimizer, gradient=slope, steps=500, starts=STARTS):
    """Return where the trainings end."""
    return descend(optimizer, gradient, starts, [None] * steps)[-1]


def share_in_good_minimum(ends):
    """Return the share of trainings that end on the side of the good minimum."""
    return float(np.mean(ends < BARRIER))


def share_after_restarts(share, restarts):
    """Return how often the best of several independent trainings is in the good minimum."""
    return 1 - (1 - share) ** restarts
