"""Units: the rows of a parameter that act as one neuron or one filter, as `nn.Linear` and convolutions lay them out.

The first dimension counts the units; what has no second dimension is a single one (a bias, a gain).
"""

from torch import Tensor

from thalweg.rules.core.reductions import Mean, ReductionGenerator, Sum


def _within(of: Tensor) -> tuple[int, ...] | None:
    """The dimensions within a unit; None for all there are."""
    return tuple(range(-(of.dim() - 1), 0)) if of.dim() > 1 else None


def unit_sum(of: Tensor) -> ReductionGenerator:
    """The sum over each unit: of size 1 in every dimension but the first."""
    return (yield Sum(of, dim=_within(of)))


def unit_mean(of: Tensor) -> ReductionGenerator:
    """The mean over each unit: of size 1 in every dimension but the first."""
    return (yield Mean(of, dim=_within(of)))
