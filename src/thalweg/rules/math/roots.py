"""Roots: the correctly rounded square root, and a cube root.

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


def cube_root(x: Tensor) -> Tensor:
    """The cube root of numbers that are not negative; in float32, of normal ones, to one unit.

    By arithmetic that C has too: PyTorch has only powers, which C rounds otherwise.
    """
    if x.dtype != torch.float32:
        return torch.pow(x, 1 / 3)
    # The bits of a number are, as a whole number, nearly its logarithm: a third of it is a first guess, 5 % off.
    y = (x.view(torch.int32).to(torch.float32) * (1 / 3) + 709921077.0).to(torch.int32).view(torch.float32)
    for _ in range(3):  # Newton, who squares the error
        y = y - (y - x / (y * y)) * (1 / 3)
    return torch.where((x > 0) & (x < torch.inf), y, x)
