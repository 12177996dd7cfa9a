"""Loop: the reference way. One tensor after the other in plain PyTorch; every other way is proved equal to it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.batch import Step
from thalweg.engine.program import Program
from thalweg.rules import Mean, Sum
from thalweg.rules.reductions import Asking, Reduction


class Item(NamedTuple):
    """One tensor's part in a step: its program, and the arguments of `Program.update`."""

    program: Program
    param: Tensor
    grad: Tensor
    state: Any
    coefficients: Any


def run(steps: Sequence[Step]) -> None:
    """Take steps in place. Those of rules over the whole model must come together."""
    slots = [(step, k) for step in steps for k in range(len(step.batch.params))]
    items = (
        Item(step.batch.program, step.batch.params[k], step.grads[k], step.batch.state(k), step.rows[k])
        for step, k in slots
    )
    for (step, k), (param, state) in zip(slots, update(items), strict=True):
        step.batch.params[k].copy_(param)
        for column, leaf in zip(step.batch.columns.values(), state, strict=True):
            column[k].copy_(leaf)


def update(items: Iterable[Item]) -> Iterator[tuple[Tensor, Any]]:
    """The new (parameter, state) of each item, in order. Inputs are not written.

    Items are taken, and results handed out, one by one, so that one tensor's temporaries are gone before the next
    one's exist; only rules that look over the whole model need all tensors at once.
    """
    taken = iter(items)
    for first in taken:
        together = [first, *taken] if first.program.rule.scope == "model" else [first]
        yield from advance([_begin(item) for item in together])


def _begin(item: Item) -> Asking:
    index = None
    if item.program.needs_index:
        index = torch.arange(item.param.numel(), device=item.param.device).view(item.param.shape)
    return item.program.update(item.param, item.grad, item.state, item.coefficients, index)


def advance(asking: Sequence[Asking]) -> list[Any]:
    """Run generators in lockstep, answering the reductions of each round together; their return values."""
    results: list[Any] = [None] * len(asking)
    answers: dict[int, Any] = dict.fromkeys(range(len(asking)))
    while answers:
        requests: dict[int, Reduction] = {}
        for index, answer in answers.items():
            try:
                requests[index] = asking[index].send(answer)
            except StopIteration as stop:
                results[index] = stop.value
        answers = answer_round(requests)
    return results


def answer_round(requests: dict[int, Reduction]) -> dict[int, Tensor]:
    """The answers to one round of requests."""
    overall = [request for request in requests.values() if request.over == "model"]
    if not overall:
        return {index: reduce_one(request) for index, request in requests.items()}
    assert len(overall) == len(requests), "a reduction over the model must be asked for by all tensors in one round"
    total = torch.stack([request.of.sum() for request in overall]).sum()
    count = sum(request.of.numel() for request in overall)
    return {index: total / count if isinstance(request, Mean) else total for index, request in requests.items()}


def reduce_one(request: Reduction) -> Tensor:
    """The answer to a request about one tensor."""
    reduce = request.of.sum if isinstance(request, Sum) else request.of.mean
    return reduce() if request.dim is None else reduce(dim=request.dim)
