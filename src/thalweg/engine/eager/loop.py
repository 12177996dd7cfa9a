"""Loop: the reference way. One tensor after the other in plain PyTorch; every other way is proved equal to it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, unaliased
from thalweg.engine.core.program import Program
from thalweg.engine.core.shards import Shards, answered, collected, largest, summed
from thalweg.rules import Max, Mean, resolve_reductions
from thalweg.rules.core.reductions import Reduction, ReductionGenerator


class Item(NamedTuple):
    """One tensor's part in a step: its program, and the arguments of `Program.update`."""

    program: Program
    param: Tensor
    grad: Tensor
    state: Any
    coefficients: Any
    shards: Shards | None = None  # how the parameter is spread over processes, if it is


def run(taken: Sequence[BatchStep]) -> None:
    """Take steps in place. Those of rules over the whole model must come together."""
    take([(step, k) for step in taken for k in range(len(step.batch.params))])


def take(slots: Sequence[tuple[BatchStep, int]]) -> None:
    """Take steps in place, each of one parameter, by its place in the batch."""
    slots = [
        (step, k)
        for step, k in slots
        # A matrix without elements has nowhere to go.
        if step.batch.params[k].numel() or not step.batch.program.rule.traits.needs_whole_matrices
    ]
    items = (
        Item(
            step.batch.program,
            step.batch.params[k],
            step.grads[k],
            step.batch.state(k),
            step.rows[k],
            step.batch.shards[k],
        )
        for step, k in slots
    )
    for (step, k), (param, state) in zip(slots, update(items), strict=True):
        old = [step.batch.params[k], *step.batch.state(k)]
        for kept, made in zip(old, unaliased([param, *state], old), strict=True):
            kept.copy_(made)


def update(items: Iterable[Item]) -> Iterator[tuple[Tensor, Any]]:
    """The new (parameter, state) of each item, in order. Inputs are not written.

    Items are taken, and results handed out, one by one, so that one tensor's temporaries are gone before the next
    one's exist; only rules that look over the whole model need all tensors at once.
    """
    taken = iter(items)
    for first in taken:
        together = [first, *taken] if first.program.rule.traits.scope == "model" else [first]
        yield from run_in_lockstep([_begin(item) for item in together], [item.shards for item in together])


def _begin(item: Item) -> ReductionGenerator:
    return item.program.update(item.param, item.grad, item.state, item.coefficients, element_index(item))


def element_index(item: Item) -> Tensor | None:
    """The number of each element of a parameter, where its rounding asks for it."""
    if not item.program.needs_index:
        return None
    return torch.arange(item.param.numel(), device=item.param.device).view(item.param.shape)


def directions(items: Sequence[Item]) -> list[tuple[Tensor, Any]]:
    """The (direction, new state) of each item, in order, for rules that try several lengths of a step."""
    asking = [item.program.direction(item.param, item.grad, item.state, item.coefficients) for item in items]
    return run_in_lockstep(asking, [item.shards for item in items])


def perturbed_parameters(items: Iterable[Item]) -> list[Tensor]:
    """Where the second gradient of each item's step is to be taken. All items are needed at once."""
    items = list(items)
    asking = [resolve_reductions(item.program.perturb(item.param, item.grad, item.coefficients)) for item in items]
    return run_in_lockstep(asking, [item.shards for item in items])


def run_in_lockstep(asking: Sequence[ReductionGenerator], shards: Sequence[Shards | None] | None = None) -> list[Any]:
    """Run generators in lockstep, answering the reductions of each round together; their return values.

    Who asks for one over the model waits until all others do, or have ended.
    """
    shards = shards or [None] * len(asking)
    results: list[Any] = [None] * len(asking)
    answers: dict[int, Any] = dict.fromkeys(range(len(asking)))
    requests: dict[int, Reduction] = {}
    while answers:
        for index, answer in answers.items():
            try:
                requests[index] = asking[index].send(answer)
            except StopIteration as stop:
                results[index] = stop.value
        local = {index: request for index, request in requests.items() if request.over == "tensor"}
        answers = {index: answered(request, shards[index]) for index, request in local.items()}
        answers = answers or reduce_over_model(requests, shards)
        requests = {index: request for index, request in requests.items() if index not in answers}
    return results


def reduce_over_model(overall: dict[int, Reduction], shards: Sequence[Shards | None]) -> dict[int, Tensor]:
    """The answers to a round of requests over the model, which are one and the same."""
    if not overall:
        return {}
    kind = type(next(iter(overall.values())))
    assert all(type(request) is kind for request in overall.values()), "all tensors must ask for the same"
    # One collective for all tensors that are spread over the same processes.
    parts: dict[tuple[Any, ...], list[Tensor]] = {}
    for index, request in overall.items():
        parts.setdefault(_spread(shards[index]), []).append(
            largest(request.tensor) if kind is Max else summed(request.tensor)
        )
    together = (torch.stack(each).amax() if kind is Max else torch.stack(each).sum() for each in parts.values())
    whole = [collected(part, groups, largest=kind is Max) for part, groups in zip(together, parts, strict=True)]
    found = torch.stack(whole).amax() if kind is Max else torch.stack(whole).sum()
    if kind is Mean:
        found = found / sum(_count(request.tensor, shards[index]) for index, request in overall.items())
    counts = not any(request.tensor.is_floating_point() or request.tensor.is_complex() for request in overall.values())
    return {index: found if counts else found.to(request.tensor.dtype) for index, request in overall.items()}


def _spread(shards: Shards | None) -> tuple[Any, ...]:
    return tuple(shards.groups.values()) if shards else ()


def _count(of: Tensor, shards: Shards | None) -> int:
    return shards.shape.numel() if shards else of.numel()
