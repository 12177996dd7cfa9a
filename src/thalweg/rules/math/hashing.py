"""Hashing: random bits that are a function of where they are used, so nothing has to be drawn, kept or synchronized.

The bits of an element follow from (seed, parameter, step, element): resuming, sharding or compiling changes none.
The hash is Wellons' `lowbias32` (nullprogram.com/blog/2018/07/31).
"""

import hashlib
import math
import struct
from typing import Any

import torch
from torch import Tensor

# Keys enter a step as coefficients, which may be float32: it holds whole numbers up to 2**24.
_KEY_BITS = 24


def keys(seed: int, position: int, step: int) -> dict[str, int]:
    """The scalars that a step adds: what is hashed with the index of an element."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, position, step), digest_size=6).digest()
    whole = int.from_bytes(digest, "little")
    return {"key_low": whole % 2**_KEY_BITS, "key_high": whole >> _KEY_BITS}


def noise(index: Tensor, c: Any) -> Tensor:
    """32 even bits for each index, as int32; reads `c.key_low` and `c.key_high`."""
    low, high = (torch.as_tensor(key, device=index.device).to(torch.int32) for key in (c.key_low, c.key_high))
    x = _mixed(index.to(torch.int32) ^ low)
    return _mixed(x ^ high)


def gaussian(like: Tensor, c: Any) -> Tensor:
    """Standard normal numbers, by Box and Muller's transform of two hashes for each element."""
    index = 2 * torch.arange(like.numel(), device=like.device).view(like.shape)
    # 24 bits each, which float32 holds; the first never 0, of which there is no logarithm.
    first, second = (((noise(index + k, c) >> 8) & 0xFFFFFF).to(like.dtype) for k in (0, 1))
    radius = torch.sqrt(-2 * torch.log((first + 0.5) / 2**24))
    return radius * torch.cos(2 * math.pi / 2**24 * second)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - 2**32)  # int32 has no unsigned kin in torch
    return x ^ ((x >> 16) & 0xFFFF)
