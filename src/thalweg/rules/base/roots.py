"""Roots: the correctly rounded square root.

PyTorch builds with MKL round some square roots one unit away on a CPU (0.6 % of float32 values, lab/LOG.md). C does
not. Rules take `root` instead of `torch.sqrt`, so that a step has the same bits whichever way it is run.
"""

import torch
from torch import Tensor


def root(x: Tensor) -> Tensor:
    """√x, rounded to the nearest; NaN below 0."""
    if x.device.type != "cpu" or x.numel() == 0:
        return torch.sqrt(x)
    if x.dtype == torch.float64:  # complex roots are computed one by one, by the C library
        return torch.where(x < 0, torch.nan, torch.complex(x, torch.zeros_like(x)).sqrt().real)
    return torch.sqrt(x.double()).to(x.dtype)  # an error in the last bits of float64 is rounded away
