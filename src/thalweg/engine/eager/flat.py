"""Flat: tensors as stretches of one long vector, a bucket at a time. Needs no compiler.

Small tensors are gathered into one bucket, so that a model of many of them takes the operations of a few; a large one
is cut, so that what an operation writes is still in the cache when the next one reads it. Elementwise rules alone can
be run so: each element steps as it does in the loop, to the last bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, ParameterBatch, unaliased
from thalweg.engine.eager.loop import run_in_lockstep

# Elements in a bucket: few operations on a CPU, whose caches hold a bucket of this size (measured: 64 K and 1 M are
# slower); fewer still elsewhere. The dozen vectors of a step stay within 64 MB.
_ON_CPU = 1 << 18
_ELSEWHERE = 1 << 20


class Piece(NamedTuple):
    """The elements from `low` to `high` of the parameter number `k`."""

    k: int
    low: int
    high: int


def why_not(batch: ParameterBatch) -> str | None:
    """Why a batch cannot be run so; None if it can."""
    if batch.program.rule.traits.scope != "elementwise":
        return f"{batch.program.rule.name} looks at whole tensors (scope {batch.program.rule.traits.scope})"
    if not all(param.is_contiguous() for param in batch.params):
        return "a parameter is not contiguous"
    for param in batch.params:
        if any(leaf.shape(param.shape) != param.shape for leaf in batch.program.layout(param.shape).values()):
            return "what is remembered has another shape than its parameter"
    return batch.why_not_raw()


def run(step: BatchStep) -> None:
    """Take a step in place."""
    batch = step.batch
    params = [param.view(-1) for param in batch.params]
    grads = [grad.reshape(-1) for grad in step.grads]
    columns = [[leaf.view(-1) for leaf in column] for column in batch.columns.values()]
    size = _ON_CPU if batch.device.type == "cpu" else _ELSEWHERE
    # Parameters with the same scalars go together, so that the rule computes with plain numbers as in the loop.
    alike: dict[int, list[int]] = {}
    for k, row in enumerate(step.rows):
        alike.setdefault(id(row), []).append(k)
    for members in alike.values():
        c = step.rows[members[0]]
        for bucket in buckets({k: params[k].numel() for k in members}, size):
            written = [_cut(params, bucket), *(_cut(column, bucket) for column in columns)]
            param, *state = (_joined(parts) for parts in written)
            grad = _joined(_cut(grads, bucket))
            index = None
            if batch.program.needs_index:
                index = torch.cat([torch.arange(low, high, device=batch.device) for _, low, high in bucket])
            remembered = batch.state(0)._replace(**dict(zip(batch.columns, state, strict=True)))
            ((new_param, new_state),) = run_in_lockstep([batch.program.update(param, grad, remembered, c, index)])
            lengths = [high - low for _, low, high in bucket]
            made = unaliased([new_param, *new_state], [param, *state])
            for parts, new in zip(written, made, strict=True):
                torch._foreach_copy_(parts, torch.split(new, lengths))


def buckets(lengths: Mapping[int, int], size: int) -> Iterator[list[Piece]]:
    """All elements of vectors, by number and length, in order, in buckets of `size`, the last one shorter."""
    bucket: list[Piece] = []
    free = size
    for k, length in lengths.items():
        low = 0
        while low < length:
            high = min(length, low + free)
            bucket.append(Piece(k, low, high))
            free -= high - low
            low = high
            if free == 0:
                yield bucket
                bucket, free = [], size
    if bucket:
        yield bucket


def _cut(vectors: Sequence[Tensor], bucket: list[Piece]) -> list[Tensor]:
    return [vectors[k][low:high] for k, low, high in bucket]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
