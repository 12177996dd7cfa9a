"""Roots: the correctly rounded square root, the root of two squares, a cube root, and safe divisors.

On a CPU, PyTorch built with MKL rounds some square roots to a neighbouring number (0.6 % of float32 values,
lab/LOG.md). C does not. Rules use `root` instead of `torch.sqrt`, so that a step has the same bits in every backend.
"""

import torch
from torch import Tensor


def root(x: Tensor) -> Tensor:
    """Return √x, correctly rounded.

    Args:
        x: A tensor of real numbers of any shape.

    Returns:
        The roots; NaN for numbers below 0.

    Example:
        >>> root(torch.tensor([4.0, 9.0]))
        tensor([2., 3.])
    """
    if x.device.type != "cpu" or x.numel() == 0:
        return torch.sqrt(x)
    if x.dtype == torch.float64:  # the C library computes complex roots, one by one
        return torch.where(x < 0, torch.nan, torch.complex(x, torch.zeros_like(x)).sqrt().real)
    return torch.sqrt(x.double()).to(x.dtype)  # the conversion rounds away an error in the last bits of float64


def as_divisor(x: Tensor) -> Tensor:
    """Return x with 1 in place of 0, so that 0 / 0 becomes 0.

    Args:
        x: A tensor.

    Returns:
        A tensor of the same shape.

    Example:
        >>> as_divisor(torch.tensor([0.0, 3.0]))
        tensor([1., 3.])
    """
    return torch.where(x == 0, torch.ones_like(x), x)


def hypot(a: Tensor, b: Tensor) -> Tensor:
    """Return √(a² + b²) of numbers >= 0, also where their squares are too large or too small for the dtype.

    Args:
        a: A tensor of finite numbers.
        b: A tensor of finite numbers that broadcasts with it. Not a number: a number over a tensor is rounded twice.

    Returns:
        The roots; 0 where both are 0.

    Example:
        >>> hypot(torch.tensor([3e30, 3e-30, 0.0]), torch.tensor([4e30, 4e-30, 0.0]))
        tensor([5.0000e+30, 5.0000e-30, 0.0000e+00])
    """
    largest = torch.maximum(a, b)
    scale = as_divisor(largest)
    x, y = a / scale, b / scale
    return largest * root(x * x + y * y)


def cube_root(x: Tensor) -> Tensor:
    """Return the cube root of numbers >= 0; in float32 with an error of at most one unit for normal numbers.

    The arithmetic is available in C too. PyTorch has only powers, which C rounds differently.
    """
    if x.dtype != torch.float32:
        return torch.pow(x, 1 / 3)
    # As a whole number, the bits of a float are nearly its logarithm. A third of that is a first guess, 5 % off.
    y = (x.view(torch.int32).to(torch.float32) * (1 / 3) + 709921077.0).to(torch.int32).view(torch.float32)
    for _ in range(3):  # Newton's method, which squares the error
        y = y - (y - x / (y * y)) * (1 / 3)
    return torch.where((x > 0) & (x < torch.inf), y, x)
