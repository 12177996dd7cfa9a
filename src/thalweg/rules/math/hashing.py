"""Hashing: random bits as a function of their position, so that nothing must be drawn, stored or synchronized.

The bits of an element follow from (seed, parameter, step, element). So resuming, sharding or compiling does not change
them. The hash of elements is Wellons' `lowbias32` (nullprogram.com/blog/2018/07/31), that of keys the finalizer of
SplitMix64 (Steele, Lea & Flood 2014, doi.org/10.1145/2660193.2660195), which a device computes as well as Python does.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Keys enter a step as coefficients, which may be float32: it represents whole numbers up to 2**24.
KEY_BITS = 24
_MASK = 2**64 - 1
# The constants of the hash of keys: the distance of two inputs, then pairs of a shift and a factor, then a shift.
INCREMENT = 0x9E3779B97F4A7C15
MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_SHIFT = 31


def step_keys(seed: int, position: int, step: int) -> dict[str, int]:
    """Return the coefficients `key_low` and `key_high` of a step of the parameter at this position."""
    key = _mix_64(parameter_key(seed, position) + step * INCREMENT)
    return {"key_low": key & (2**KEY_BITS - 1), "key_high": key >> (64 - KEY_BITS)}


@lru_cache(1 << 16)
def parameter_key(seed: int, position: int) -> int:
    """Return 64 bits that seed the random numbers of the parameter at this position."""
    return _mix_64(_mix_64(seed) + position * INCREMENT)


def step_key_tensors(parameter_keys: Tensor, steps: Tensor) -> dict[str, Tensor]:
    """Return `step_keys` for many parameters at once, on their device.

    Args:
        parameter_keys: The `parameter_key` of each parameter, as int64.
        steps: The number of the step of each, as a float.
    """
    x = parameter_keys + steps.to(torch.int64) * signed(INCREMENT)
    for shift, factor in MIXING:
        x = (x ^ _shifted(x, shift)) * signed(factor)
    x = x ^ _shifted(x, LAST_SHIFT)
    return {"key_low": x & (2**KEY_BITS - 1), "key_high": _shifted(x, 64 - KEY_BITS)}


def _shifted(x: Tensor, shift: int) -> Tensor:
    return (x >> shift) & (_MASK >> shift)


def signed(bits: int) -> int:
    """Return 64 bits as torch has them, which has no unsigned arithmetic."""
    return bits - 2**64 if bits >> 63 else bits


def _mix_64(x: int) -> int:
    for shift, factor in MIXING:
        x &= _MASK
        x = (x ^ (x >> shift)) * factor
    x &= _MASK
    return x ^ (x >> LAST_SHIFT)


def random_bits(index: Tensor, c: Any) -> Tensor:
    """Return 32 uniform bits for each index, as int32; reads `c.key_low` and `c.key_high`."""
    low, high = (torch.as_tensor(key, device=index.device).to(torch.int32) for key in (c.key_low, c.key_high))
    x = _mix(index.to(torch.int32) ^ low)
    return _mix(x ^ high)


def standard_normal(like: Tensor, c: Any) -> Tensor:
    """Return standard normal numbers of a tensor's shape, by the Box-Muller transform of two hashes per element."""
    index = 2 * torch.arange(like.numel(), device=like.device).view(like.shape)
    # 24 bits each, which float32 represents. The first is never 0, which has no logarithm.
    first, second = (((random_bits(index + k, c) >> 8) & 0xFFFFFF).to(like.dtype) for k in (0, 1))
    radius = torch.sqrt(-2 * torch.log((first + 0.5) / 2**24))
    return radius * torch.cos(2 * math.pi / 2**24 * second)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - 2**32)  # torch has no uint32 arithmetic
    return x ^ ((x >> 16) & 0xFFFF)
