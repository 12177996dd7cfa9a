"""Precision: the dtype in which a rule computes, and the rounding of the new parameter.

Half precisions are computed in float32 and rounded once, when the parameter is written; their state stays float32.
There are three roundings. The last two keep steps that are smaller than half a unit in the last place:

    nearest      θ = round(θ')
    kahan        θ = round(θ'), r = round(θ' - θ); the next step starts from θ + r (compensated summation)
    stochastic   up or down with the probability that makes the mean exact; bfloat16 only

Stochastic rounding draws no random numbers. Its noise is a hash (`rules.math.hashing`), so its only state is the seed;
resuming, sharding and compiling change no bit.

Source: Kahan 1965 (doi.org/10.1145/363707.363723); for training in bfloat16, Zamirai et al. 2020, arXiv:2010.06192.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.rules.math.hashing import noise

Rounding = Literal["nearest", "kahan", "stochastic"]

HALVES = (torch.bfloat16, torch.float16)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of arithmetic and state for parameters of a dtype.

    Example:
        >>> compute_dtype(torch.bfloat16), compute_dtype(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.float32 if dtype in HALVES else dtype


def unsupported_reason(rounding: Rounding, dtype: torch.dtype) -> str | None:
    """Return the reason why a dtype does not support a rounding; None if it does, or if nothing is rounded."""
    if rounding == "stochastic" and dtype == torch.float16:
        return "stochastic rounding is for bfloat16"
    return None


def effective_rounding(rounding: Rounding, dtype: torch.dtype) -> Rounding:
    """Return the rounding that parameters of a dtype get: wide dtypes are not rounded, so theirs is ``nearest``."""
    return rounding if dtype in HALVES else "nearest"


def to_compute_dtype(param: Tensor, state: Any, rounding: Rounding) -> Tensor:
    """Return the parameter as the rule sees it, with the residual of Kahan's rounding added."""
    value = param.to(compute_dtype(param.dtype))
    return value + state.residual.to(value.dtype) if rounding == "kahan" else value


def round_parameter(
    value: Tensor, dtype: torch.dtype, state: Any, c: Any, index: Tensor | None, rounding: Rounding
) -> Any:
    """Round a new parameter to its own dtype.

    Args:
        value: The parameter in the compute dtype.
        dtype: The dtype of the parameter.
        state: The new state of the parameter.
        c: The coefficients of the step; stochastic rounding reads its keys from them.
        index: The number of each element, for stochastic rounding.
        rounding: The rounding.

    Returns:
        The rounded parameter, and the state with the residual of Kahan's rounding.
    """
    if rounding == "stochastic":
        assert index is not None, "stochastic rounding needs the number of each element"
        return _round_stochastically(value, noise(index, c)).to(dtype), state
    rounded = value.to(dtype)
    if rounding == "kahan":
        state = state._replace(residual=(value - rounded.to(value.dtype)).to(dtype))
    return rounded, state


def _round_stochastically(value: Tensor, noise: Tensor) -> Tensor:
    """Return float32 values whose low 16 bits are zero, so that bfloat16 holds them exactly; inf and NaN stay."""
    bits = (value.view(torch.int32) + (noise & 0xFFFF)) & ~0xFFFF
    return torch.where(value.abs() < torch.inf, bits.view(torch.float32), value)
