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
from thalweg.rules.base.reductions import Reduction


@dataclass(frozen=True)
class Shards:
    """How one parameter is spread: its whole shape, and the process group of each dimension that is split.

    Dimensions count from the end. What a rule reduces entirely must have the shape of the parameter.
    """

    shape: torch.Size
    groups: dict[int, Any]

    def answer(self, request: Reduction) -> Tensor:
        """The answer to a request about this parameter."""
        dims = _dims(request, len(self.shape))
        part = largest(request.of, request.dim) if isinstance(request, Max) else _sum(request)
        over = [self.groups[dim] for dim in dims if dim in self.groups]
        whole = collected(part, over, largest=isinstance(request, Max))
        if isinstance(request, Mean):
            return whole / torch.Size(self.shape[dim] for dim in dims).numel()
        return whole


def _dims(request: Reduction, num_dims: int) -> Sequence[int]:
    if request.dim is None:
        return range(-num_dims, 0)
    return request.dim if isinstance(request.dim, tuple) else (request.dim,)


def _sum(request: Reduction) -> Tensor:
    return request.of.sum() if request.dim is None else request.of.sum(dim=request.dim, keepdim=True)


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
