"""Functions of the scalars of a step, for numbers, tensors and the stand-ins that write a computation down.

`coefficients(step)` is called with Python's numbers; with tensors, if a gradient must reach a setting; and with
stand-ins, if the scalars are computed on a device. So it calls these functions instead of those of `math`.
"""

import math
from typing import Any

from torch import Tensor


def sqrt(x: Any) -> Any:
    """Return √x.

    Example:
        >>> sqrt(4)
        2.0
    """
    return math.sqrt(x) if isinstance(x, int | float) else x.sqrt()


def exp(x: Any) -> Any:
    """Return eˣ."""
    return math.exp(x) if isinstance(x, int | float) else x.exp()


def log(x: Any) -> Any:
    """Return the natural logarithm of x."""
    return math.log(x) if isinstance(x, int | float) else x.log()


def cos(x: Any) -> Any:
    """Return the cosine of x, in radians."""
    return math.cos(x) if isinstance(x, int | float) else x.cos()


def floor(x: Any) -> Any:
    """Return the largest whole number that is at most x, as a float.

    Example:
        >>> floor(2.5)
        2.0
    """
    return float(math.floor(x)) if isinstance(x, int | float) else x.floor()


def as_number(x: Any) -> Any:
    """Return a number or the value of a tensor as a float. No gradient reaches the tensor."""
    return float(x) if isinstance(x, int | float | Tensor) else x
