"""Loop: the reference backend, tensor by tensor in plain PyTorch. Every other backend is tested equal to it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, unaliased
from thalweg.engine.core.matrix_batches import answer_in_batches, answer_one_by_one
from thalweg.engine.core.program import Program
from thalweg.engine.core.shards import (
    Shards,
    all_reduce,
    compute_reduction,
    double,
    max_or_zero,
    sum_in_double,
    terms,
)
from thalweg.rules import Max, Mean, Norm, resolve_reductions
from thalweg.rules.core.matrix_requests import MatrixRequest
from thalweg.rules.core.reductions import Products, Reduction, Replace, Request, RequestGenerator
from thalweg.rules.math.roots import root


class TensorStep(NamedTuple):
    """One step of one tensor: a program and the arguments of its ``update``.

    Attributes:
        program: The program of the parameter.
        param: The parameter.
        grad: Its gradient.
        state: Its state, as a record.
        coefficients: The scalars of the step, as a record.
        shards: The placement of the parameter over processes; None if it is whole.
    """

    program: Program
    param: Tensor
    grad: Tensor
    state: Any
    coefficients: Any
    shards: Shards | None = None


def run(steps: Sequence[BatchStep], *, together: bool = False) -> None:
    """Take steps in place. Steps of rules over the whole model must be taken in one call.

    Args:
        steps: The steps.
        together: See ``update``.
    """
    run_slots([(step, k) for step in steps for k in range(len(step.batch.params))], together=together)


def run_slots(slots: Sequence[tuple[BatchStep, int]], *, together: bool = False) -> None:
    """Take steps of single parameters in place.

    Args:
        slots: The step of a batch, and the index of a parameter in that batch.
        together: See ``update``.
    """
    slots = [
        (step, k)
        for step, k in slots
        # A matrix without elements has no step.
        if step.batch.params[k].numel() or not step.batch.program.rule.traits.needs_whole_matrices
    ]
    items = (
        TensorStep(
            step.batch.program,
            step.batch.params[k],
            step.grads[k],
            step.batch.state(k),
            step.coefficients[k],
            step.batch.shards[k],
        )
        for step, k in slots
    )
    for (step, k), (param, state) in zip(slots, update(items, together=together), strict=True):
        targets = [step.batch.params[k], *step.batch.state(k)]
        for target, result in zip(targets, unaliased([param, *state], targets), strict=True):
            target.copy_(step.result(target, result))


def update(items: Iterable[TensorStep], *, together: bool = False) -> Iterator[tuple[Tensor, Any]]:
    """Compute the new parameter and state of each item, in order, without writing the inputs.

    Items are read and results yielded one by one, so that the temporaries of one tensor are freed before those of the
    next one are made. Only rules that look over the whole model need all tensors at once.

    Args:
        items: The steps.
        together: If true, all tensors advance at once, and operations on matrices are answered in batches.
    """
    remaining = iter(items)
    for first in remaining:
        members = [first, *remaining] if together or first.program.rule.traits.scope == "model" else [first]
        yield from run_in_lockstep(
            [_begin(item) for item in members], [item.shards for item in members], in_batches=together
        )


def _begin(item: TensorStep) -> RequestGenerator:
    return item.program.update(item.param, item.grad, item.state, item.coefficients, element_index(item))


def element_index(item: TensorStep) -> Tensor | None:
    """Return the number of each element of a parameter if its rounding needs it, else None."""
    if not item.program.needs_index:
        return None
    return torch.arange(item.param.numel(), device=item.param.device).view(item.param.shape)


def perturbed_parameters(items: Iterable[TensorStep]) -> list[Tensor]:
    """Return the parameter at which the second gradient of each item's step is taken, for rules that need one."""
    items = list(items)
    generators = [resolve_reductions(item.program.perturb(item.param, item.grad, item.coefficients)) for item in items]
    return run_in_lockstep(generators, [item.shards for item in items])


def run_in_lockstep(
    generators: Sequence[RequestGenerator],
    shards: Sequence[Shards | None] | None = None,
    *,
    in_batches: bool = False,
) -> list[Any]:
    """Run generators in lockstep and send them the results that they request, a round at a time.

    A generator that requests a reduction over the model waits until every other one requests one too, or has ended. The
    reductions of a part of the model come before those of more of it, which are requested around them.

    Args:
        generators: One for each tensor.
        shards: The placement of each tensor over processes. Defaults to whole tensors.
        in_batches: If true, the operations on matrices of a round are answered in batches, else one by one.

    Returns:
        The return value of each generator, in order.
    """
    answer = answer_in_batches if in_batches else answer_one_by_one
    shards = shards or [None] * len(generators)
    returned: list[Any] = [None] * len(generators)
    results: dict[int, Any] = dict.fromkeys(range(len(generators)))
    requests: dict[int, Request] = {}
    while results:
        for index, result in results.items():
            try:
                requests[index] = generators[index].send(result)
            except StopIteration as stop:
                returned[index] = stop.value
        on_matrices = {index: request for index, request in requests.items() if isinstance(request, MatrixRequest)}
        reductions = {index: request for index, request in requests.items() if not isinstance(request, MatrixRequest)}
        results = {
            index: replaced(request) if isinstance(request, Replace) else compute_reduction(request, shards[index])
            for index, request in reductions.items()
            if request.over == "tensor"
        }
        # Operations wait until no tensor has reductions of its own left, so that more of them are answered at once.
        results = results or answer(on_matrices) or _reduce_innermost(reductions, shards)
        requests = {index: request for index, request in requests.items() if index not in results}
    return returned


def replaced(request: Replace) -> Tensor:
    """Return a copy of a stack in which one tensor is replaced."""
    stack = request.stack.clone()
    stack[request.index] = request.tensor
    return stack


def inner_products(request: Products) -> Tensor:
    """Return the part of inner products that the tensors of a request give."""
    stack, tensor = request.stack.flatten(1), request.tensor
    if tensor.dim() == request.stack.dim():
        return double(stack @ tensor.flatten(1).t())
    return double(torch.mv(stack, tensor.flatten()))


def _reduce_innermost(requests: dict[int, Any], shards: Sequence[Shards | None]) -> dict[int, Tensor]:
    """Return the results of the requests limited to the smallest parts of the model, each over its own part."""
    depth = max((len(request.part) for request in requests.values()), default=0)
    parts: dict[tuple[str, ...], dict[int, Any]] = {}
    for index, request in requests.items():
        if len(request.part) == depth:
            parts.setdefault(request.part, {})[index] = request
    results: dict[int, Tensor] = {}
    for part in parts.values():
        products = {index: request for index, request in part.items() if isinstance(request, Products)}
        assert len(products) in (0, len(part)), "all tensors must request the same reduction"
        results |= _add_products(products) if products else reduce_over_model(part, shards)
    return results


def _add_products(requests: Mapping[int, Products]) -> dict[int, Tensor]:
    """Return inner products over the model to every tensor that requests them. No tensor is divided over processes."""
    return dict.fromkeys(requests, torch.stack([inner_products(request) for request in requests.values()]).sum(0))


def reduce_over_model(requests: dict[int, Reduction], shards: Sequence[Shards | None]) -> dict[int, Tensor]:
    """Return the result of a reduction over the model to every tensor that requests it.

    Args:
        requests: The requests of one round, all of one kind, by the index of the tensor.
        shards: The placement of each tensor over processes, by its index.

    Returns:
        The result, which is the same number for all tensors, in the dtype of each request.
    """
    if not requests:
        return {}
    kind = type(next(iter(requests.values())))
    assert all(type(request) is kind for request in requests.values()), "all tensors must request the same reduction"
    # One collective for all tensors that are spread over the same processes.
    parts: dict[tuple[Any, ...], list[Tensor]] = {}
    for index, request in requests.items():
        part = max_or_zero(request.tensor) if kind is Max else sum_in_double(terms(request))
        placement = shards[index]
        parts.setdefault(placement.all_groups if placement else (), []).append(part)
    joined = (_reduce_stack(members, kind) for members in parts.values())
    totals = [all_reduce(part, groups, largest=kind is Max) for part, groups in zip(joined, parts, strict=True)]
    total = _reduce_stack(totals, kind)
    if kind is Mean:
        total = total / sum(_whole_numel(request.tensor, shards[index]) for index, request in requests.items())
    elif kind is Norm:
        total = root(total)
    exact = not any(request.tensor.is_floating_point() or request.tensor.is_complex() for request in requests.values())
    return {
        index: total.to(request.tensor.device, total.dtype if exact else request.tensor.dtype)
        for index, request in requests.items()
    }


def _reduce_stack(parts: Sequence[Tensor], kind: type[Reduction]) -> Tensor:
    stack = torch.stack([part.to(parts[0].device) for part in parts])  # a model may lie on several devices
    return stack.amax() if kind is Max else stack.sum()


def _whole_numel(tensor: Tensor, shards: Shards | None) -> int:
    return shards.shape.numel() if shards else tensor.numel()
