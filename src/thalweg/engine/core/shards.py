"""Shards: parameters of which each process holds a part, and reductions over all parts.

Elementwise rules need none of this: each shard steps by itself. For a reduction over whole tensors, or along a
dimension that is split over processes, every process reduces its part and a collective combines the results.

A DTensor says how it is split (`fully_shard`, tensor parallelism). A flat parameter of `FullyShardedDataParallel` does
not: it holds a stretch of all elements of several parameters, whatever their shapes, so reductions over it are wrong.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
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
        groups: The process groups of each dimension that is split, one for each split. Dimensions count from the end,
            from -1. Empty if every process holds the whole parameter.
    """

    shape: torch.Size
    groups: dict[int, tuple[Any, ...]]

    @property
    def all_groups(self) -> tuple[Any, ...]:
        """The process groups of all dimensions."""
        return tuple(chain.from_iterable(self.groups.values()))

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
        groups = chain.from_iterable(shards.groups.get(dim, ()) for dim in dims)
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


def double(tensor: Tensor) -> Tensor:
    """Return a tensor in double precision, where its device has it."""
    return tensor.to(_double_dtype(tensor))


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
    if not is_dtensor(param):
        return None
    mesh = param.device_mesh
    groups: dict[int, tuple[Any, ...]] = {}
    for k, place in _splits(param):
        dim = place.dim - param.dim()
        groups[dim] = (*groups.get(dim, ()), mesh.get_group(k))
    return Shards(param.shape, groups)


def is_dtensor(tensor: Any) -> bool:
    """Return True for a tensor that is spread over the processes of a device mesh."""
    return hasattr(tensor, "to_local")


def is_split(param: Any) -> bool:
    """Return True if a parameter is a DTensor of which each process holds a part."""
    return is_dtensor(param) and bool(_splits(param))


def _splits(param: Any) -> list[tuple[int, Any]]:
    """Return the dimensions of the mesh over which a DTensor is split, each with its placement."""
    # Not `place.is_shard()`, which is False for the placement that `fully_shard` makes of a tensor-parallel parameter.
    return [
        (k, place)
        for k, place in enumerate(param.placements)
        if param.device_mesh.size(k) > 1 and not place.is_replicate()
    ]


def has_partial_values(param: Any) -> bool:
    """Return True if a parameter is a DTensor whose value is the sum of what the processes hold."""
    return is_dtensor(param) and any(place.is_partial() for _, place in _splits(param))


def local_tensor(tensor: Any, like: Any) -> Any:
    """Return the part of a gradient that belongs to the part of a parameter that this process holds.

    In tensor parallelism the gradient may be placed in another way than its parameter, for example as terms of a sum.

    Args:
        tensor: The gradient, or another tensor of the parameter's shape.
        like: The parameter.
    """
    if not is_dtensor(tensor):
        return tensor
    if is_dtensor(like) and tensor.placements != like.placements:
        tensor = tensor.redistribute(like.device_mesh, like.placements)
    return tensor.to_local()


def distribute_like(whole: Tensor, like: Any) -> Any:
    """Return a tensor that all processes hold, placed over processes as another one of its shape."""
    if not is_dtensor(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def num_processes() -> int:
    """Return the number of processes that train together, as far as `torch.distributed` knows."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_related_to_all(param: Any) -> bool:
    """Return True if the mesh of a parameter has all processes, so that none has a copy that it does not know of."""
    return num_processes() == (param.device_mesh.size() if is_dtensor(param) else 1)


def is_flattened(param: Any) -> bool:
    """Return True if a parameter is, or is a part of, a flat parameter of `FullyShardedDataParallel`."""
    return getattr(param, "_fsdp_flattened", False)


def divided(params: Iterable[Any]) -> list[Any]:
    """Return the parameters that may be divided over processes, and those that were until FSDP replaced them."""
    return [param for param in params if is_dtensor(param) or is_flattened(param) or is_replaced(param)]


def flat_pieces(params: Iterable[Any]) -> list[Any]:
    """Return the parameters that hold a piece of a flat parameter of `FullyShardedDataParallel`.

    With `use_orig_params=True` and `NO_SHARD` the parameters are whole. A parameter of two dimensions shows this for
    all that share its memory; a vector alone could be either, and counts as a piece.

    Args:
        params: All parameters of an optimizer or a model.
    """
    flattened = [param for param in params if is_flattened(param)]
    whole = {param.untyped_storage().data_ptr() for param in flattened if param.dim() > 1 and param.numel()}
    return [param for param in flattened if param.dim() < 2 and param.untyped_storage().data_ptr() not in whole]


def is_replaced(param: Any) -> bool:
    """Return True if `fully_shard` has put a DTensor in the place of a parameter, which the model no longer uses."""
    return hasattr(param, "_fsdp_orig_uid")
