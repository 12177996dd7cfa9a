"""Stacked: a population of models, each with its own settings, as one program (`torch.func.vmap`).

Every tensor has one more dimension in front, the members'. A member's step is the loop's, so nothing here knows a
formula; members may differ in numbers but not in switches or in what they remember, since those choose the program.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import loop
from thalweg.engine.precision import compute_dtype
from thalweg.engine.program import Program
from thalweg.rules import Rule


def program(rule: Rule, shapes: Iterable[torch.Size]) -> Hashable:
    """What the rules of one population must have in common: their class, their switches, and what they remember."""
    return tuple(Program(rule).key(shape, torch.float32) for shape in shapes)


def coefficients(rules: Sequence[Rule], step: int, *, like: Tensor) -> Any:
    """Each member's scalars for this step, as one row of tensors of shape (members,), for parameters `like` these.

    They are computed member by member in Python's float64, exactly as the loop computes them.
    """
    rows = [rule.coefficients(step) for rule in rules]
    columns = torch.tensor(rows, dtype=torch.float64).to(like.device, compute_dtype(like.dtype)).unbind(1)
    return type(rows[0])(*columns)


def init(rules: Sequence[Rule], params: dict[str, Tensor]) -> dict[str, Any]:
    """The state of a population before its first step, for stacked parameters; each member's is its own rule's."""

    def stacked(param: Tensor) -> Any:
        rows = [Program(rule).init(member) for rule, member in zip(rules, param, strict=True)]
        return type(rows[0])(*(torch.stack(leaves) for leaves in zip(*rows, strict=True)))

    return {name: stacked(param) for name, param in params.items()}


def stepper(rule: Rule) -> Callable[..., tuple[dict[str, Tensor], dict[str, Any]]]:
    """The step of a population: (params, grads, states, coefficients) -> (params, states), all stacked.

    `rule` gives the program; the numbers come from `coefficients`.
    """

    def member(params: dict[str, Tensor], grads: dict[str, Tensor], states: dict[str, Any], row: Any) -> Any:
        items = [loop.Item(Program(rule), params[name], grads[name], states[name], row) for name in params]
        updated = list(loop.update(items))
        return (
            {name: param for name, (param, _) in zip(params, updated, strict=True)},
            {name: state for name, (_, state) in zip(params, updated, strict=True)},
        )

    return torch.func.vmap(member)
