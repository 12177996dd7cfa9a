"""Arrays of numpy and pandas and lists of numbers as tensors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def is_array(value: object) -> bool:
    """Return True for an array that is no tensor: of numpy, or a table of pandas and others that numpy can read."""
    return isinstance(value, np.ndarray) or (
        hasattr(value, "__array__") and hasattr(value, "shape") and not isinstance(value, Tensor | np.generic)
    )


def is_array_like(value: object) -> bool:
    """Return True for a tensor, an array, or a list of numbers or of lists of numbers."""
    return isinstance(value, Tensor) or is_array(value) or _is_list_of_numbers(value)


def _is_list_of_numbers(value: object) -> bool:
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    return isinstance(value, list) and isinstance(first, bool | int | float | np.number)


def array_as_tensor(value: Any, float_dtype: Callable[[], torch.dtype] = torch.get_default_dtype) -> Tensor:
    """Return an array or a list as a tensor.

    Real numbers become the dtype of the model, since numpy and Python choose theirs unasked. Whole numbers keep their
    dtype where torch computes with it: unsigned ones of 16 bits and more get twice the bits, at most 64. Tensors stay
    as they are, but the graph that made them is left behind: a pass may differentiate by them, as by new ones.

    Args:
        value: A tensor, an array, or a list of numbers. Its memory is shared where that is possible.
        float_dtype: Returns the dtype for real numbers.

    Raises:
        ValueError: If it holds no numbers, or rows of different lengths.

    Example:
        >>> array_as_tensor(np.ones(2)).dtype
        torch.float32
    """
    if isinstance(value, Tensor):
        return without_graph(value) if value.requires_grad else value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError("rows of different lengths") from error
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{array.dtype} values, which are no numbers")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int32 if array.dtype.itemsize == 2 else np.int64)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    tensor = torch.from_numpy(array) if array.ndim else torch.as_tensor(array.item())
    return tensor.to(float_dtype()) if tensor.is_floating_point() else tensor


def without_graph(tensor: Tensor) -> Tensor:
    """Return a tensor without the operations that made it; autograd follows the result if it followed the tensor."""
    return tensor.detach().requires_grad_(tensor.requires_grad)
