"""Batched: tensors of one shape as one, under `torch.func.vmap`, for rules that look at whole tensors.

A step of a small matrix is mostly the calling of operations, and many of them (heads, experts, narrow layers) take the
operations of one. Rules that only reduce (scope tensor) give the bits of the loop; those of matrices all but the last
digits, since the products of a batch are added up in another order.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import PLAIN_TENSOR_TYPES, BatchStep, ParameterBatch
from thalweg.engine.core.precision import compute_dtype
from thalweg.engine.eager import loop

# Where it pays, seen with Muon, Adafactor and LAMB: four tensors gain and three do not; larger ones gain little or
# nothing, and with Adafactor and LAMB they lose. What 48 matrices gain is in `benchmarks/records/matrices.json`.
_FEWEST = 4
_LARGEST = 96 * 96
# Of the parameters of one run, in the dtype of its arithmetic. With gradients, state, temporaries and results it takes
# 29 to 55 MB by rule (measured).
_BUCKET_BYTES = 1 << 22


def why_not(batch: ParameterBatch, *, asked: bool) -> str | None:
    """Why a batch is not to be run so; None if it is. If it is `asked` for, it need not pay, only be possible."""
    rule = batch.program.rule
    if rule.traits.scope == "elementwise":
        return "it looks at single elements, for which there are better ways"
    if rule.traits.scope == "model":
        return "it looks over the whole model"
    if not rule.traits.supports_vmap:
        return "what it does to one depends on its numbers"
    if batch.program.needs_keys:
        return "each has random numbers of its own"
    if any(batch.shards) or not all(type(param) in PLAIN_TENSOR_TYPES for param in batch.params):
        return "a parameter is of a tensor class of its own"
    if not asked and not all(param.is_contiguous() for param in batch.params):
        return "a parameter is not contiguous"  # its sums would be added up in another order
    if batch.overlaps():
        return "two parameters share memory"
    shapes = [param.shape for param in batch.params if _small(param)]
    if not asked and max(map(shapes.count, shapes), default=0) < _FEWEST:
        return f"no {_FEWEST} small ones have one shape"
    return None


def run(step: BatchStep, *, asked: bool) -> None:
    """Take a step in place: where it pays, or everywhere if that is `asked` for; the rest tensor by tensor."""
    alone = []
    for members in _alike(step):
        first = step.batch.params[members[0]]
        if first.numel() and (asked or (len(members) >= _FEWEST and _small(first))):
            for some in _buckets(step.batch, members):
                _take(step, some)
        else:
            alone += members
    loop.take([(step, k) for k in sorted(alone)])


def _small(param: Tensor) -> bool:
    return param.numel() <= _LARGEST


def _alike(step: BatchStep) -> list[list[int]]:
    """The places of parameters that one run can step: those of one shape, with the same scalars."""
    found: dict[Any, list[int]] = {}
    for k, (param, row) in enumerate(zip(step.batch.params, step.rows, strict=True)):
        found.setdefault((param.shape, id(row)), []).append(k)
    return list(found.values())


def _buckets(batch: ParameterBatch, members: Sequence[int]) -> Iterator[Sequence[int]]:
    size = batch.params[members[0]].numel() * compute_dtype(batch.dtype).itemsize
    many = max(1, _BUCKET_BYTES // size)
    return (members[start : start + many] for start in range(0, len(members), many))


def _take(step: BatchStep, members: Sequence[int]) -> None:
    """Step the parameters at these places together."""
    batch, row = step.batch, step.rows[members[0]]

    def stacked(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensors[k] for k in members])

    def one(param: Tensor, grad: Tensor, state: Any) -> tuple[Tensor, Any]:
        ((param, state),) = loop.update([loop.Item(batch.program, param, grad, state, row)])
        return param, state

    state = batch.state(members[0])._replace(**{name: stacked(column) for name, column in batch.columns.items()})
    param, state = torch.func.vmap(one)(stacked(batch.params), stacked(step.grads), state)
    for column, made in zip((batch.params, *batch.columns.values()), (param, *state), strict=True):
        torch._foreach_copy_([column[k] for k in members], list(made.unbind()))
