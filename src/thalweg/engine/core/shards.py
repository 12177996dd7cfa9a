"""Shards: parameters of which each process holds a part, and reductions over all parts.

Elementwise rules need none of this: each shard steps by itself. For a reduction over whole tensors, or along a
dimension that is split over processes, every process reduces its part and a collective combines the results.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules import Max, Mean, Norm
from thalweg.rules.core.reductions import Reduction
from thalweg.rules.math.roots import root


@dataclass(frozen=True)
class Shards:
    """The placement of one parameter over processes.

    A tensor that a rule reduces entirely must have the shape of the parameter.

    Attributes:
        shape: The shape of the whole parameter.
        groups: The process group of each dimension that is split. Dimensions count from the end, from -1.
    """

    shape: torch.Size
    groups: dict[int, Any]

    def count(self, dims: Sequence[int]) -> int:
        """Return the number of elements that the whole parameter has along these dimensions."""
        return torch.Size(self.shape[dim] for dim in dims).numel()


def compute_reduction(request: Reduction, shards: Shards | None) -> Tensor:
    """Return the result of a reduction over one tensor, on all processes that hold a part of it."""
    operand = request.tensor
    is_max = isinstance(request, Max)
    result = max_or_zero(operand, request.dim) if is_max else sum_in_double(terms(request), request.dim)
    if shards is None:
        count = operand.numel() // max(1, result.numel())
    else:
        dims = _reduced_dims(request, len(shards.shape))
        groups = [shards.groups[dim] for dim in dims if dim in shards.groups]
        result = all_reduce(result, groups, largest=is_max)
        count = shards.count(dims)
    if isinstance(request, Mean):
        result = result / count
    elif isinstance(request, Norm):
        result = root(result)
    return result.to(operand.dtype) if _is_inexact(operand) else result


def _reduced_dims(request: Reduction, num_dims: int) -> Sequence[int]:
    if request.dim is None:
        return range(-num_dims, 0)
    return request.dim if isinstance(request.dim, tuple) else (request.dim,)


def terms(request: Reduction) -> Tensor:
    """Return the numbers that a request sums: those of its tensor, or their squares in double precision for a norm."""
    if not isinstance(request, Norm):
        return request.tensor
    wide = request.tensor.to(_double_dtype(request.tensor))
    return wide * wide


def sum_in_double(tensor: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Return the sum in double precision.

    So the sum, rounded to the tensor's dtype, does not depend on the order of its terms but in the rarest cases: the
    loop, a kernel and several processes get the same.

    Args:
        tensor: The terms. Integers and booleans are summed as integers.
        dim: The dimensions to sum along, which stay with size 1. None sums all elements to a 0-D tensor.
    """
    along: dict[str, Any] = {} if dim is None else {"dim": dim, "keepdim": True}
    return tensor.sum(**along, dtype=_double_dtype(tensor)) if _is_inexact(tensor) else tensor.sum(**along)


def _is_inexact(tensor: Tensor) -> bool:
    """Return True for real and complex floating point numbers."""
    return tensor.is_floating_point() or tensor.is_complex()


def _double_dtype(tensor: Tensor) -> torch.dtype:
    if tensor.device.type == "mps":  # which has no double precision
        return tensor.dtype
    return torch.complex128 if tensor.is_complex() else torch.float64


def max_or_zero(tensor: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Return the largest element along dimensions, which stay with size 1, or of all; 0 if there is no element."""
    along: dict[str, Any] = {} if dim is None else {"dim": dim, "keepdim": True}
    return tensor.amax(**along) if tensor.numel() else tensor.sum(**along)


def all_reduce(part: Tensor, groups: Iterable[Any], *, largest: bool = False) -> Tensor:
    """Return the sum, or the elementwise largest, of the tensors that the processes of these groups hold."""
    import torch.distributed as dist

    for group in groups:
        part = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(part, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=group)
    return part


def shards_of(param: Any) -> Shards | None:
    """Return the placement of a parameter over processes; None if the parameter is no DTensor."""
    if not hasattr(param, "to_local"):
        return None
    mesh = param.device_mesh
    groups = {
        place.dim - param.dim(): mesh.get_group(k) for k, place in enumerate(param.placements) if place.is_shard()
    }
    return Shards(param.shape, groups)
