"""Loop: the reference way. One tensor after the other in plain PyTorch; every other way is proved equal to it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.precision import compute_dtype
from thalweg.rules import Mean, Rule, Sum
from thalweg.rules.reductions import Reduction
from thalweg.rules.rule import Asking


class Item(NamedTuple):
    """One tensor's part in a step: its rule, and the arguments of `Rule.update`."""

    rule: Rule
    param: Tensor
    grad: Tensor
    state: Any
    coefficients: Any


def init(rule: Rule, param: Tensor) -> Any:
    """The state of one tensor before its first step, in the dtype that the rule computes in."""
    return rule.init(param.detach().to(compute_dtype(param.dtype)))


def update(items: Iterable[Item]) -> Iterator[tuple[Tensor, Any]]:
    """The new (parameter, state) of each item, in order. Inputs are not written.

    Half precisions are computed in float32, and the new parameter is rounded once. Items are taken, and results
    handed out, one by one, so that one tensor's temporaries are gone before the next one's exist; only rules that
    look over the whole model need all tensors at once.
    """
    taken = iter(items)
    for first in taken:
        together = [first, *taken] if first.rule.scope == "model" else [first]
        for item, (param, state) in zip(together, advance([_begin(item) for item in together]), strict=True):
            yield param.to(item.param.dtype), state


def _begin(item: Item) -> Asking:
    dtype = compute_dtype(item.param.dtype)
    return item.rule.update(item.param.to(dtype), item.grad.to(dtype), item.state, item.coefficients)


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
