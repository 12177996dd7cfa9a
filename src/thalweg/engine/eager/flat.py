"""Flat: tensors as stretches of one long vector, a bucket at a time. No compiler is needed.

Small tensors are gathered into one bucket, so that a model of many small tensors takes the operations of a few. A large
tensor is cut, so that the result of an operation is still in the cache when the next one reads it. This backend runs
elementwise rules only: each element steps as in the loop, to the last bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, ParameterBatch, unaliased
from thalweg.engine.eager.loop import run_in_lockstep

# Elements in a bucket. A CPU has caches that hold a bucket of this size (measured: 64 K and 1 M are slower); other
# devices gain from fewer operations. The dozen vectors of a step stay within 64 MB.
BUCKET_NUMEL_CPU = 1 << 18
_BUCKET_NUMEL = 1 << 20


class Piece(NamedTuple):
    """The elements from ``start`` to ``stop``, exclusive, of parameter number ``k``."""

    k: int
    start: int
    stop: int


def unsupported_reason(batch: ParameterBatch) -> str | None:
    """Return the reason why this backend cannot run a batch; None if it can."""
    if batch.program.rule.traits.scope != "elementwise":
        return f"{batch.program.rule.name} looks at whole tensors (scope {batch.program.rule.traits.scope})"
    if not all(param.is_contiguous() for param in batch.params):
        return "a parameter is not contiguous"
    for param in batch.params:
        if any(declared.shape(param.shape) != param.shape for declared in batch.program.layout(param.shape).values()):
            return "a state tensor has another shape than its parameter"
    return batch.direct_access_problem()


def run(step: BatchStep) -> None:
    """Take a step in place."""
    batch = step.batch
    params = [param.view(-1) for param in batch.params]
    grads = [grad.reshape(-1) for grad in step.grads]
    columns = [[entry.view(-1) for entry in column] for column in batch.columns.values()]
    size = BUCKET_NUMEL_CPU if batch.device.type == "cpu" else _BUCKET_NUMEL
    # Buckets hold parameters with the same scalars, so that the rule computes with plain numbers as in the loop.
    groups: dict[int, list[int]] = {}
    for k, c in enumerate(step.coefficients):
        groups.setdefault(id(c), []).append(k)
    for members in groups.values():
        c = step.coefficients[members[0]]
        for bucket in buckets({k: params[k].numel() for k in members}, size):
            targets = [_cut(params, bucket), *(_cut(column, bucket) for column in columns)]
            param, *entries = (_join(parts) for parts in targets)
            grad = _join(_cut(grads, bucket))
            index = None
            if batch.program.needs_index:
                index = torch.cat([torch.arange(start, stop, device=batch.device) for _, start, stop in bucket])
            state = batch.state(0)._replace(**dict(zip(batch.columns, entries, strict=True)))
            ((new_param, new_state),) = run_in_lockstep([batch.program.update(param, grad, state, c, index)])
            lengths = [stop - start for _, start, stop in bucket]
            inputs = [param, *entries]
            results = list(map(step.result, inputs, unaliased([new_param, *new_state], inputs)))
            for parts, result in zip(targets, results, strict=True):
                torch._foreach_copy_(parts, torch.split(result, lengths))


def buckets(lengths: Mapping[int, int], size: int) -> Iterator[list[Piece]]:
    """Cut vectors into buckets of the same number of elements, in order; only the last bucket is shorter.

    Args:
        lengths: The number of elements of each vector, by its number.
        size: The number of elements in a bucket.

    Example:
        >>> [[tuple(piece) for piece in bucket] for bucket in buckets({0: 3, 1: 2}, 4)]
        [[(0, 0, 3), (1, 0, 1)], [(1, 1, 2)]]
    """
    bucket: list[Piece] = []
    free = size
    for k, length in lengths.items():
        start = 0
        while start < length:
            stop = min(length, start + free)
            bucket.append(Piece(k, start, stop))
            free -= stop - start
            start = stop
            if free == 0:
                yield bucket
                bucket, free = [], size
    if bucket:
        yield bucket


def _cut(vectors: Sequence[Tensor], bucket: list[Piece]) -> list[Tensor]:
    return [vectors[k][start:stop] for k, start, stop in bucket]


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
