"""Hashing: random bits as a function of their position, so that nothing must be drawn, stored or synchronized.

The bits of an element follow from (seed, parameter, step, element). So resuming, sharding or compiling does not change
them. The hash is Wellons' `lowbias32` (nullprogram.com/blog/2018/07/31).
"""

import hashlib
import math
import struct
from typing import Any

import torch
from torch import Tensor

# Keys enter a step as coefficients, which may be float32: it represents whole numbers up to 2**24.
_KEY_BITS = 24


def step_keys(seed: int, position: int, step: int) -> dict[str, int]:
    """Return the coefficients `key_low` and `key_high` of a step of the parameter at this position."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, position, step), digest_size=6).digest()
    key = int.from_bytes(digest, "little")
    return {"key_low": key % 2**_KEY_BITS, "key_high": key >> _KEY_BITS}


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
