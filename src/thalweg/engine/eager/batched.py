"""Batched: tensors of one shape stacked into one, under `torch.func.vmap`, for rules that look at whole tensors.

The step of a small matrix costs mostly the calls of its operations, and many stacked matrices (heads, experts, narrow
layers) take as many calls as one. Rules that only reduce (scope tensor) get the bits of the loop. Matrix rules agree
with it up to the last digits, since the products of a stack are added up in another order.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.core.plain_tensors import PLAIN_TENSOR_TYPES
from thalweg.engine.core.precision import compute_dtype
from thalweg.engine.eager import loop

# Where stacking pays, measured with Muon, Adafactor and LAMB: four tensors gain and three do not; larger ones gain
# little or nothing, and lose with Adafactor and LAMB. `benchmarks/records/matrices.json` holds the gain of 48 matrices.
_MIN_TENSORS = 4
_MAX_NUMEL = 96 * 96
# Bytes of the parameters in one stack, in the compute dtype. With gradients, state, temporaries and results a step
# takes 29 to 55 MB, depending on the rule (measured).
_BUCKET_BYTES = 1 << 22


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
    if not rule.traits.supports_vmap:
        return "its operations depend on the numbers of each tensor"
    if batch.program.needs_keys:
        return "each tensor has its own random numbers"
    if any(batch.shards) or not all(type(param) in PLAIN_TENSOR_TYPES for param in batch.params):
        return "a parameter is of a tensor subclass"
    if not requested and not all(param.is_contiguous() for param in batch.params):
        return "a parameter is not contiguous"  # its sums would be added up in another order
    if batch.overlaps():
        return "two parameters share memory"
    shapes = [param.shape for param in batch.params if _is_small(param)]
    if not requested and max(map(shapes.count, shapes), default=0) < _MIN_TENSORS:
        return f"no {_MIN_TENSORS} small tensors have the same shape"
    return None


def run(step: BatchStep, *, requested: bool) -> None:
    """Take a step in place: stacked where that is faster, or everywhere if ``requested``; else tensor by tensor."""
    single = []
    for members in _group_by_shape_and_scalars(step):
        first = step.batch.params[members[0]]
        if first.numel() and (requested or (len(members) >= _MIN_TENSORS and _is_small(first))):
            for stack in _stacks(step.batch, members):
                _step_stack(step, stack)
        else:
            single += members
    loop.run_slots([(step, k) for k in sorted(single)])


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
