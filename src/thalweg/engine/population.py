"""Stacked: a population of models, each with its own settings, stepped in place as one.

Every tensor has one more dimension in front, the members'. Members may differ in numbers but not in switches or in what
they remember, since those choose the program. An elementwise rule takes the members' slices as so many tensors, which
one kernel steps in one call; other rules are run by the loop under `torch.func.vmap`, reductions and all.
"""

import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.backends import BatchRunner
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.precision import compute_dtype
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.rules import Rule
from thalweg.rules.math import hashing


def program(rule: Rule, shapes: Iterable[torch.Size]) -> Hashable:
    """What the rules of one population must have in common: their class, their switches, and what they remember."""
    return tuple(Program(rule).key(shape, torch.float32) for shape in shapes)


class PopulationStepper:
    """The stacked parameters of a population, by name, and its state. Steps are taken in place."""

    def __init__(self, rules: Sequence[Rule], params: dict[str, Tensor]) -> None:
        self.params = params
        self._elementwise = rules[0].traits.scope == "elementwise"
        self._program = Program(rules[0])
        states = {
            name: [Program(rule).init(member) for rule, member in zip(rules, param, strict=True)]
            for name, param in params.items()
        }
        self.state = {name: type(rows[0])(*map(torch.stack, zip(*rows, strict=True))) for name, rows in states.items()}
        self._carried = [Program(rule).initial_recurrent_scalars() for rule in rules]
        self._runner = self._members()

    def keep(self, members: Sequence[int], params: dict[str, Tensor]) -> None:
        """Go on with these members alone, whose stacked parameters are now these."""
        self.params = params
        self.state = {name: type(state)(*(leaf[list(members)] for leaf in state)) for name, state in self.state.items()}
        self._carried = [self._carried[k] for k in members]
        self._runner = self._members()

    def _members(self) -> BatchRunner | None:
        """All members' slices of all tensors, name by name, as one batch; None for a rule that needs whole tensors."""
        if not self._elementwise:
            return None
        slices = {name: list(param.unbind()) for name, param in self.params.items()}
        rows = [zip(*(leaf.unbind() for leaf in state), strict=True) for state in self.state.values()]
        fields = next(iter(self.state.values()))._fields
        states = list(itertools.chain.from_iterable(rows)) if fields else []
        columns = {field: [state[k] for state in states] for k, field in enumerate(fields)}
        return BatchRunner(ParameterBatch(self._program, list(itertools.chain(*slices.values())), columns))

    @torch.no_grad()
    def step(self, rules: Sequence[Rule], grads: dict[str, Tensor], count: int) -> None:
        """Take step number `count` (from 1) with these stacked gradients, each member at the numbers of its rule."""
        rows = [
            Program(rule).coefficients(count, before=before) for rule, before in zip(rules, self._carried, strict=True)
        ]
        self._carried = [self._program.recurrent_scalars_of(row) for row in rows]
        if self._runner is None:
            self._step_under_vmap(rows, grads, count)
            return
        stacks = [grads[name].contiguous() for name in self.params]
        for stack, param in zip(stacks, self.params.values(), strict=True):
            assert (stack.shape, stack.dtype, stack.device) == (param.shape, param.dtype, param.device)
        assert self._runner.batch.unchanged(), "the stacked parameters are written in place, by nobody else"
        self._runner.run_stacks(stacks, rows)

    def _step_under_vmap(self, rows: Sequence[Any], grads: dict[str, Tensor], count: int) -> None:
        like = next(iter(self.params.values()))

        def columns(position: int) -> Any:
            keys = hashing.step_keys(0, position, count) if self._program.needs_keys else {}
            # Computed member by member in Python's float64, as the loop computes them.
            table = torch.tensor([row._replace(**keys) for row in rows], dtype=torch.float64, device="cpu")
            return type(rows[0])(*table.to(like.device, compute_dtype(like.dtype)).unbind(1))

        def member(params: Any, grads: Any, states: Any, rows: Any) -> Any:
            each = zip(params, itertools.cycle(rows))  # one for all, or one each
            items = [loop.Item(self._program, params[name], grads[name], states[name], row) for name, row in each]
            return dict(zip(params, loop.update(items), strict=True))

        # Where random numbers are drawn, every tensor has scalars of its own.
        columns_of = [columns(position) for position in range(len(self.params) if self._program.needs_keys else 1)]
        updated = torch.func.vmap(member)(self.params, grads, self.state, columns_of)
        for name, (param, state) in updated.items():
            # What a member hands on as it was may be the stack itself, which is written here.
            for old, new in zip(
                (self.params[name], *self.state[name]), (param.clone(), *map(Tensor.clone, state)), strict=True
            ):
                old.copy_(new)
