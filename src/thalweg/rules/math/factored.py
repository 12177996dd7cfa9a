"""Factored second moments: the mean square of a matrix, stored as the means of its rows and of its columns.

For parameters with more dimensions these are the last two; for those with fewer, every element is stored.
"""

from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.reductions import Mean, ReductionGenerator
from thalweg.rules.math.roots import as_divisor, root


def is_factored(rule: Any, shape: torch.Size) -> bool:
    """Return True if a parameter of this shape has rows and columns."""
    return len(shape) > 1


def is_unfactored(rule: Any, shape: torch.Size) -> bool:
    """Return True if every element of a parameter of this shape is stored."""
    return len(shape) < 2


def update_factors(square: Tensor, rows: Tensor, columns: Tensor, keep: Any, fresh: Any) -> ReductionGenerator:
    """Return the running means of the rows and of the columns after a step: `keep` old + `fresh` new."""
    return (
        keep * rows + fresh * (yield Mean(square, dim=-1)),
        keep * columns + fresh * (yield Mean(square, dim=-2)),
    )


def reconstruct(rows: Tensor, columns: Tensor, min_mean: Any = 0.0) -> ReductionGenerator:
    """Return the estimate of each element, rows × columns / mean; the mean of all elements is at least `min_mean`."""
    return rows / torch.clamp((yield Mean(rows, dim=-2)), min=min_mean) * columns


def reconstruct_root(rows: Tensor, columns: Tensor) -> ReductionGenerator:
    """Return the root of the estimate of each element. Where it is too small for the dtype, it is 1.

    A product of roots is in the range of the dtype where the product of a row and a column is not.
    """
    mean = yield Mean(rows, dim=-2)
    estimate = root(rows) / root(as_divisor(mean)) * root(columns)
    return as_divisor(estimate)
