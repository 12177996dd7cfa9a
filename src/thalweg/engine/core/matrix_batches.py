"""Matrix batches: the operations on matrices that rules request, answered for many matrices at once.

Operations of one class, settings, shapes, dtype and device are stacked, whatever parameters and rules they belong to.
The products of a stack may be added up in another order than those of one matrix, so results agree up to the last
digits. A number that is not finite stays in its own matrix.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.matrix_requests import MatrixOperation, MatrixRequest

# The most rows of matrices that are stacked. On a CPU larger ones gain nothing (measured with Muon). On an H100 the
# products of larger ones should fill the device one by one; `benchmarks/speed/matrices.py --device cuda` measures it.
# Decompositions lose nothing in a stack: `torch.linalg` takes the matrices of a stack one by one where that is faster.
# (On CUDA `eigh` has a driver for stacks of small matrices; each call waits once.)
_MAX_ROWS_CPU = 96
_MAX_ROWS = 1024
# Bytes of the first operands in a stack.
_MAX_BYTES_CPU = 1 << 22
_MAX_BYTES = 1 << 28


def max_rows(device: torch.device) -> int:
    """Return the most rows that a matrix has that is stacked on a device; it has no fewer columns."""
    return _MAX_ROWS_CPU if device.type == "cpu" else _MAX_ROWS


def answer_one_by_one(requests: Mapping[int, MatrixRequest]) -> dict[int, Any]:
    """Return the result of each request, with each operation computed by itself."""
    return {
        index: request.result([_finished(operation) for operation in request.operations])
        for index, request in requests.items()
    }


def answer_in_batches(requests: Mapping[int, MatrixRequest]) -> dict[int, Any]:
    """Return the result of each request, with equal operations of all requests computed as one."""
    operations = [operation for request in requests.values() for operation in request.operations]
    results: list[Any] = [None] * len(operations)
    for members in _stacks(operations):
        for index, result in zip(members, _compute([operations[index] for index in members]), strict=True):
            results[index] = result
    remaining = iter(results)
    return {index: request.result([next(remaining) for _ in request.operations]) for index, request in requests.items()}


def _finished(operation: MatrixOperation) -> Any:
    return operation.finish(*operation.compute(*operation.operands))


def _compute(operations: Sequence[MatrixOperation]) -> list[Any]:
    """Return the results of operations that can be computed as one."""
    if len(operations) == 1:
        return [_finished(operations[0])]
    stacked = (
        torch.stack(operands) for operands in zip(*(operation.operands for operation in operations), strict=True)
    )
    columns = (computed.unbind() for computed in operations[0].compute(*stacked))
    parts = zip(*columns, strict=True)
    return [operation.finish(*part) for operation, part in zip(operations, parts, strict=True)]


def _stacks(operations: Sequence[MatrixOperation]) -> Iterator[Sequence[int]]:
    """Yield the indices of operations that are computed as one: all indices, each once."""
    groups: dict[Hashable, list[int]] = {}
    for index, operation in enumerate(operations):
        groups.setdefault(_key(operation), []).append(index)
    for members in groups.values():
        length = _max_length(operations[members[0]].operands[0])
        yield from (members[start : start + length] for start in range(0, len(members), length))


def _key(operation: MatrixOperation) -> Hashable:
    layouts = tuple((operand.shape, operand.dtype, operand.device) for operand in operation.operands)
    return type(operation), operation.settings, layouts


def _max_length(operand: Tensor) -> int:
    """Return the number of such operands in a stack."""
    if operand.shape[0] > max_rows(operand.device):
        return 1
    max_bytes = _MAX_BYTES_CPU if operand.device.type == "cpu" else _MAX_BYTES
    return max(1, max_bytes // max(1, operand.numel() * operand.element_size()))
