"""Factored: a mean square of a matrix kept as the means of its rows and of its columns.

Of parameters with more dimensions these are the last two; of those with fewer, every element is kept.
"""

from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.reductions import Mean, ReductionGenerator


def factored(rule: Any, shape: torch.Size) -> bool:
    """Whether a parameter of this shape has rows and columns."""
    return len(shape) > 1


def whole(rule: Any, shape: torch.Size) -> bool:
    """Whether every element of a parameter of this shape is kept."""
    return len(shape) < 2


def means(square: Tensor, rows: Tensor, columns: Tensor, keep: Any, fresh: Any) -> ReductionGenerator:
    """The running means of rows and of columns, one step on."""
    return (
        keep * rows + fresh * (yield Mean(square, dim=-1)),
        keep * columns + fresh * (yield Mean(square, dim=-2)),
    )


def together(rows: Tensor, columns: Tensor, least: Any = 0.0) -> ReductionGenerator:
    """What the means of rows and of columns say of each element; the mean of all counts as `least` or more."""
    return rows / torch.clamp((yield Mean(rows, dim=-2)), min=least) * columns
