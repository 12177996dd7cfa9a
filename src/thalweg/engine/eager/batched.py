"""Batched: many matrices at once, for rules that look at whole tensors. There are two steps to it.

Small tensors of one shape are stacked into one, under `torch.func.vmap`. The step of a small matrix costs mostly the
calls of its operations, and many stacked matrices (heads, experts, narrow layers) take as many calls as one.

Of rules that request operations on matrices, all other parameters advance together, and their operations are answered
in batches by shape (`core.matrix_batches`), whatever their parameters, groups and rules. Large matrices step one by
one, so that the temporaries of one are freed before those of the next are made.

Rules that only reduce (scope tensor) get the bits of the loop. Matrix rules agree with it up to the last digits, since
the products of a stack are added up in another order.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.core.matrix_batches import max_rows
from thalweg.engine.core.plain_tensors import PLAIN_TENSOR_TYPES
from thalweg.engine.core.precision import compute_dtype
from thalweg.engine.eager import loop
from thalweg.rules.math.matrices import matrix_shape

# Where stacking pays, measured with Muon, Adafactor and LAMB: four tensors gain and three do not; larger ones gain
# little or nothing, and lose with Adafactor and LAMB. `benchmarks/records/matrices.json` holds the gain of 48 matrices.
# The operations on small matrices alone, computed together, take 0.4 to 0.8 of the time (Shampoo, SOAP, Muon).
_MIN_TENSORS = 4
_MAX_NUMEL = 96 * 96
# Bytes of the parameters in one stack, in the compute dtype. With gradients, state, temporaries and results a step
# takes 29 to 55 MB, depending on the rule (measured).
_BUCKET_BYTES = 1 << 22
# Bytes of the parameters that advance together, in the compute dtype. Their new state and some temporaries exist at the
# same time. A GPT-2 of 124 M parameters has 340 MB of hidden matrices.
_TOGETHER_BYTES_CPU = 1 << 22
_TOGETHER_BYTES = 1 << 29


def unsupported_reason(batch: ParameterBatch, *, requested: bool) -> str | None:
    """Return the reason why this backend does not run a batch; None if it does.

    Args:
        batch: The parameters.
        requested: True if the user requests this backend: then it must be possible, but need not be faster.
    """
    rule = batch.program.rule
    if rule.traits.scope == "elementwise":
        return "elementwise rules have faster backends"
    if rule.traits.scope == "model":
        return "its reductions cover the whole model"
    if any(batch.shards) or not all(type(param) in PLAIN_TENSOR_TYPES for param in batch.params):
        return "a parameter is of a tensor subclass"
    if batch.overlaps():
        return "two parameters share memory"
    return None if _gains_together(batch, requested=requested) else _unstacked_reason(batch, requested=requested)


def _gains_together(batch: ParameterBatch, *, requested: bool) -> bool:
    """Return True if operations on matrices are answered in batches, and if that is faster or requested."""
    if not batch.program.rule.traits.requests_operations:
        return False
    shapes = [tuple(_sides(param)) for param in batch.params if _fits_batches(param)]
    return requested or max(map(shapes.count, set(shapes)), default=0) >= _min_together(batch.device)


def _unstacked_reason(batch: ParameterBatch, *, requested: bool) -> str | None:
    """Return the reason why no tensors are stacked; None if some are."""
    if not batch.program.rule.traits.supports_vmap:
        return "its operations depend on the numbers of each tensor"
    if batch.program.needs_keys:
        return "each tensor has its own random numbers"
    if not requested and not all(param.is_contiguous() for param in batch.params):
        return "a parameter is not contiguous"  # its sums would be added up in another order
    shapes = [param.shape for param in batch.params if _is_small(param)]
    if not requested and max(map(shapes.count, shapes), default=0) < _MIN_TENSORS:
        return f"no {_MIN_TENSORS} small tensors have the same shape"
    return None


def gain(batch: ParameterBatch) -> str:
    """Return what this backend gains, in words, for a batch that it runs without a request."""
    if _unstacked_reason(batch, requested=False):
        return "operations on matrices of one shape are computed together"
    return "small tensors of one shape are stacked"


def run(steps: Sequence[tuple[BatchStep, bool]]) -> None:
    """Take steps in place: in stacks or together where that is faster, or everywhere if requested; else one by one.

    Args:
        steps: The step of each batch, and True if the user requests this backend.
    """
    remaining: list[tuple[BatchStep, int]] = []
    together: list[tuple[BatchStep, int]] = []
    for step, requested in steps:
        unstacked = _run_stacks(step, requested=requested)
        requests_operations = step.batch.program.rule.traits.requests_operations
        for k in unstacked:
            joins = requests_operations and (requested or _fits_batches(step.batch.params[k]))
            (together if joins else remaining).append((step, k))
    for chunk in _chunks(together):
        loop.run_slots(chunk, together=True)
    loop.run_slots(remaining)


def _run_stacks(step: BatchStep, *, requested: bool) -> list[int]:
    """Take the steps of tensors that are stacked; return the indices of the others."""
    program, params = step.batch.program, step.batch.params
    if not program.rule.traits.supports_vmap or program.needs_keys:
        return list(range(len(params)))
    single = []
    for members in _group_by_shape_and_scalars(step):
        first = params[members[0]]
        gains = len(members) >= _MIN_TENSORS and _is_small(first) and all(params[k].is_contiguous() for k in members)
        if first.numel() and (requested or gains):
            for stack in _stacks(step.batch, members):
                _step_stack(step, stack)
        else:
            single += members
    return sorted(single)


def _min_together(device: torch.device) -> int:
    """Return the number of matrices of one shape in a batch from which on it pays to compute their operations together.

    On accelerators one is enough: it may share its operations with those of other batches.
    """
    return _MIN_TENSORS if device.type == "cpu" else 1


def _sides(param: Tensor) -> list[int]:
    """Return the sides of a parameter's matrix, the shorter first."""
    return sorted(matrix_shape(param.shape)) if param.dim() else [1, 1]


def _fits_batches(param: Tensor) -> bool:
    """Return True if it pays to compute the operations of a parameter together with those of others."""
    return _is_small(param) if param.device.type == "cpu" else _sides(param)[0] <= max_rows(param.device)


def _chunks(slots: Sequence[tuple[BatchStep, int]]) -> Iterator[list[tuple[BatchStep, int]]]:
    """Cut parameters into chunks that advance together, with matrices of one shape side by side."""

    def sides(slot: tuple[BatchStep, int]) -> list[int]:
        step, k = slot
        return _sides(step.batch.params[k])

    chunk: list[tuple[BatchStep, int]] = []
    free = 0
    for step, k in sorted(slots, key=sides):
        limit = _TOGETHER_BYTES_CPU if step.batch.device.type == "cpu" else _TOGETHER_BYTES
        num_bytes = step.batch.params[k].numel() * compute_dtype(step.batch.dtype).itemsize
        if chunk and num_bytes > free:
            yield chunk
            chunk = []
        free = (free if chunk else limit) - num_bytes
        chunk.append((step, k))
    if chunk:
        yield chunk


def _is_small(param: Tensor) -> bool:
    return param.numel() <= _MAX_NUMEL


def _group_by_shape_and_scalars(step: BatchStep) -> list[list[int]]:
    """Return the indices of parameters in groups of one shape and the same coefficients."""
    groups: dict[Any, list[int]] = {}
    for k, (param, c) in enumerate(zip(step.batch.params, step.coefficients, strict=True)):
        groups.setdefault((param.shape, id(c)), []).append(k)
    return list(groups.values())


def _stacks(batch: ParameterBatch, members: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut the indices of parameters of one shape into stacks that stay within ``_BUCKET_BYTES``."""
    num_bytes = batch.params[members[0]].numel() * compute_dtype(batch.dtype).itemsize
    length = max(1, _BUCKET_BYTES // num_bytes)
    return (members[start : start + length] for start in range(0, len(members), length))


def _step_stack(step: BatchStep, members: Sequence[int]) -> None:
    """Step the parameters with these indices as one."""
    batch, c = step.batch, step.coefficients[members[0]]

    def stack(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensors[k] for k in members])

    def update(param: Tensor, grad: Tensor, state: Any) -> tuple[Tensor, Any]:
        ((param, state),) = loop.update([loop.TensorStep(batch.program, param, grad, state, c)])
        return param, state

    state = batch.state(members[0])._replace(**{name: stack(column) for name, column in batch.columns.items()})
    param, state = torch.func.vmap(update)(stack(batch.params), stack(step.grads), state)
    for column, result in zip((batch.params, *batch.columns.values()), (param, *state), strict=True):
        torch._foreach_copy_([column[k] for k in members], list(result.unbind()))
