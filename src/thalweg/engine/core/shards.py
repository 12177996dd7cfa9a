"""Shards: parameters of which each process holds a part, and reductions over all of them.

Elementwise rules need nothing of it: a shard steps by itself. A reduction over whole tensors, or over a dimension that
is spread over processes, is what every process makes of its part, put together by a collective.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules import Max, Mean
from thalweg.rules.core.reductions import Reduction


@dataclass(frozen=True)
class Shards:
    """How one parameter is spread: its whole shape, and the process group of each dimension that is split.

    Dimensions count from the end. What a rule reduces entirely must have the shape of the parameter.
    """

    shape: torch.Size
    groups: dict[int, Any]

    def count(self, dims: Sequence[int]) -> int:
        """How many elements of the whole parameter these dimensions have."""
        return torch.Size(self.shape[dim] for dim in dims).numel()


def answered(request: Reduction, shards: Shards | None) -> Tensor:
    """The answer to a request about one parameter, however it is spread."""
    of = request.tensor
    part = largest(of, request.dim) if isinstance(request, Max) else summed(of, request.dim)
    if shards is None:
        count = of.numel() // max(1, part.numel())
    else:
        dims = _dims(request, len(shards.shape))
        over = [shards.groups[dim] for dim in dims if dim in shards.groups]
        part = collected(part, over, largest=isinstance(request, Max))
        count = shards.count(dims)
    found = part / count if isinstance(request, Mean) else part
    return found.to(of.dtype) if _is_wide(of) else found


def _dims(request: Reduction, num_dims: int) -> Sequence[int]:
    if request.dim is None:
        return range(-num_dims, 0)
    return request.dim if isinstance(request.dim, tuple) else (request.dim,)


def summed(of: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """The sum, along dimensions that stay with size 1, or of all, in double precision.

    So it comes out the same in whatever order it is made, but for the rarest rounding: by the loop, by a kernel, and by
    several processes.
    """
    along: dict[str, Any] = {} if dim is None else {"dim": dim, "keepdim": True}
    return of.sum(**along, dtype=_doubled(of)) if _is_wide(of) else of.sum(**along)


def _is_wide(of: Tensor) -> bool:
    """Whether a sum is of the dtype of what is summed; truth values are counted."""
    return of.is_floating_point() or of.is_complex()


def _doubled(of: Tensor) -> torch.dtype:
    if of.device.type == "mps":  # which has no double precision
        return of.dtype
    return torch.complex128 if of.is_complex() else torch.float64


def largest(of: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """The largest element, along dimensions that stay with size 1, or of all; of nothing, 0."""
    along: dict[str, Any] = {} if dim is None else {"dim": dim, "keepdim": True}
    return of.amax(**along) if of.numel() else of.sum(**along)


def collected(part: Tensor, groups: Iterable[Any], *, largest: bool = False) -> Tensor:
    """The sum, or the largest, of what the processes of these groups hold."""
    import torch.distributed as dist

    for group in groups:
        part = part.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(part, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=group)
    return part


def shards_of(param: Any) -> Shards | None:
    """How a parameter is spread over processes; None if it is not."""
    if not hasattr(param, "to_local"):
        return None
    mesh = param.device_mesh
    spread = {at.dim - param.dim(): mesh.get_group(k) for k, at in enumerate(param.placements) if at.is_shard()}
    return Shards(param.shape, spread)
