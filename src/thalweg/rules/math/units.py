"""Units: the rows of a parameter that form one neuron or one filter, in the layout of `nn.Linear` and convolutions.

The first dimension counts the units. A parameter without a second dimension (a bias, a gain) is a single unit.
"""

from torch import Tensor

from thalweg.rules.core.reductions import Mean, Norm, ReductionGenerator


def _dims_of_unit(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the dimensions of a unit; None for all dimensions."""
    return tuple(range(-(tensor.dim() - 1), 0)) if tensor.dim() > 1 else None


def unit_norm(tensor: Tensor) -> ReductionGenerator:
    """Return the norm of each unit; every dimension but the first has size 1."""
    return (yield Norm(tensor, dim=_dims_of_unit(tensor)))


def unit_mean(tensor: Tensor) -> ReductionGenerator:
    """Return the mean over each unit; every dimension but the first has size 1."""
    return (yield Mean(tensor, dim=_dims_of_unit(tensor)))
