"""Data that several trainings share. All of it comes with installed packages."""

from functools import cache

import torch
from torch import Tensor

Examples = tuple[Tensor, Tensor]


@cache
def digits(train: int = 1000, validation: int = 300) -> tuple[Examples, Examples, Examples]:
    """Return 1,797 handwritten digits, (n, 64) pixels from 0 to 1 and (n,) labels, as training, validation and test."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images, targets = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = order[:train], order[train : train + validation], order[train + validation :]
    first, second, third = ((images[part], targets[part]) for part in parts)
    return first, second, third


def report_points(steps: int, count: int = 6) -> set[int]:
    """Return the numbers of steps after which a training reports: evenly spaced, the last one after the last step.

    Example:
        >>> sorted(report_points(100, 4))
        [25, 50, 75, 100]
    """
    return {max(1, round(steps * k / count)) for k in range(1, count + 1)}
