"""Precision: in which dtype a rule computes, and how the new parameter is rounded to its own.

Half precisions are computed in float32 and rounded once, when the parameter is written; their state stays float32.
Three ways to round, of which the last two keep steps that are smaller than half a unit in the last place:

    nearest      θ = round(θ')
    kahan        θ = round(θ'), r = round(θ' - θ); the next step starts from θ + r (compensated summation)
    stochastic   up or down with the probability that makes the mean exact; bfloat16 only

Stochastic rounding draws nothing: its noise is a hash (`rules.math.hashing`), so its only state is the seed, and
resuming, sharding or compiling changes no bit.

Source: Kahan 1965 (doi.org/10.1145/363707.363723); for training in bfloat16, Zamirai et al. 2020, arXiv:2010.06192.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.rules.math.hashing import random_bits

Rounding = Literal["nearest", "kahan", "stochastic"]

HALVES = (torch.bfloat16, torch.float16)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that arithmetic and state have for parameters of this dtype."""
    return torch.float32 if dtype in HALVES else dtype


def why_not(rounding: Rounding, dtype: torch.dtype) -> str | None:
    """Why a parameter of this dtype cannot be rounded so; None if it can, or has nothing to round."""
    if rounding == "stochastic" and dtype == torch.float16:
        return "stochastic rounding is for bfloat16"
    return None


def effective_rounding(rounding: Rounding, dtype: torch.dtype) -> Rounding:
    """The rounding of a parameter of this dtype where `rounding` is asked for: wide ones have nothing to round."""
    return rounding if dtype in HALVES else "nearest"


def to_compute_dtype(param: Tensor, state: Any, rounding: Rounding) -> Tensor:
    """The parameter as the rule is to see it."""
    value = param.to(compute_dtype(param.dtype))
    return value + state.residual.to(value.dtype) if rounding == "kahan" else value


def round_parameter(
    value: Tensor, dtype: torch.dtype, state: Any, c: Any, index: Tensor | None, rounding: Rounding
) -> Any:
    """(the parameter as it is kept, the state with what rounding remembers)."""
    if rounding == "stochastic":
        assert index is not None, "the position of each element in its parameter"
        return _up_or_down(value, random_bits(index, c)).to(dtype), state
    kept = value.to(dtype)
    if rounding == "kahan":
        state = state._replace(residual=(value - kept.to(value.dtype)).to(dtype))
    return kept, state


def _up_or_down(value: Tensor, random_bits: Tensor) -> Tensor:
    """float32 values whose low 16 bits are gone, so that bfloat16 holds them exactly; inf and NaN stay."""
    bits = (value.view(torch.int32) + (random_bits & 0xFFFF)) & ~0xFFFF
    return torch.where(value.abs() < torch.inf, bits.view(torch.float32), value)
