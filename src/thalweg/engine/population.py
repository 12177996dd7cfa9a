"""Population: many models, each with its own settings, stepped in place as one.

Every tensor has one more dimension in front, that of the members. Members may differ in numbers but not in switches or
in the names of their state, since those choose the program. For an elementwise rule, the members' slices are tensors of
one batch, which one kernel steps in one call. Other rules run on the loop under `torch.func.vmap`.
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


def program_key(rule: Rule, shapes: Iterable[torch.Size]) -> Hashable:
    """Return a key that is equal for rules that can be members of one population.

    Args:
        rule: The rule of a member.
        shapes: The shapes of its parameters.

    Example:
        >>> import torch
        >>> from thalweg.rules import Adam
        >>> shapes = [torch.Size([3])]
        >>> program_key(Adam(lr=0.1), shapes) == program_key(Adam(lr=0.2), shapes)
        True
        >>> program_key(Adam(), shapes) == program_key(Adam(amsgrad=True), shapes)
        False
    """
    return tuple(Program(rule).key(shape, torch.float32) for shape in shapes)


class PopulationStepper:
    """Steps the stacked parameters of a population in place.

    Args:
        rules: The rule of each member; their ``program_key`` is equal.
        params: The stacked parameters by name, of shape ``(members, *shape)``.

    Attributes:
        params: The stacked parameters, by name.
        state: The stacked state of each parameter, by name.

    Example:
        >>> import torch
        >>> from thalweg.rules import SGD
        >>> params = {"w": torch.ones(2, 3)}
        >>> rules = [SGD(lr=0.25), SGD(lr=0.5)]
        >>> PopulationStepper(rules, params).step(rules, {"w": torch.ones(2, 3)}, count=1)
        >>> params["w"].tolist()
        [[0.75, 0.75, 0.75], [0.5, 0.5, 0.5]]
    """

    def __init__(self, rules: Sequence[Rule], params: dict[str, Tensor]) -> None:
        self.params = params
        self._elementwise = rules[0].traits.scope == "elementwise"
        self._program = Program(rules[0])
        states = {
            name: [Program(rule).init(member) for rule, member in zip(rules, param, strict=True)]
            for name, param in params.items()
        }
        self.state = {
            name: type(members[0])(*map(torch.stack, zip(*members, strict=True))) for name, members in states.items()
        }
        self._recurrent_scalars = [Program(rule).initial_recurrent_scalars() for rule in rules]
        self._runner = self._bind_members()

    def keep(self, members: Sequence[int], params: dict[str, Tensor]) -> None:
        """Drop all members but some.

        Args:
            members: The indices of the members that stay.
            params: Their stacked parameters, by name.
        """
        self.params = params
        self.state = {
            name: type(state)(*(entry[list(members)] for entry in state)) for name, state in self.state.items()
        }
        self._recurrent_scalars = [self._recurrent_scalars[k] for k in members]
        self._runner = self._bind_members()

    def _bind_members(self) -> BatchRunner | None:
        """Return all members' slices of all tensors as one batch; None for a rule that needs whole tensors."""
        if not self._elementwise:
            return None
        slices = {name: list(param.unbind()) for name, param in self.params.items()}
        members = [zip(*(entry.unbind() for entry in state), strict=True) for state in self.state.values()]
        fields = next(iter(self.state.values()))._fields
        states = list(itertools.chain.from_iterable(members)) if fields else []
        columns = {field: [state[k] for state in states] for k, field in enumerate(fields)}
        return BatchRunner(ParameterBatch(self._program, list(itertools.chain(*slices.values())), columns))

    @torch.no_grad()
    def step(self, rules: Sequence[Rule], grads: dict[str, Tensor], count: int) -> None:
        """Take a step.

        Args:
            rules: The rule of each member, at the settings of this step.
            grads: The stacked gradients, by name.
            count: The number of the step, from 1.
        """
        coefficients = [
            Program(rule).coefficients(count, previous=previous)
            for rule, previous in zip(rules, self._recurrent_scalars, strict=True)
        ]
        self._recurrent_scalars = [self._program.recurrent_scalars_of(c) for c in coefficients]
        if self._runner is None:
            self._step_under_vmap(coefficients, grads, count)
            return
        stacks = [grads[name].contiguous() for name in self.params]
        for stack, param in zip(stacks, self.params.values(), strict=True):
            assert (stack.shape, stack.dtype, stack.device) == (param.shape, param.dtype, param.device)
        assert self._runner.batch.unchanged(), "nobody else may replace the memory of stacked parameters"
        self._runner.run_stacks(stacks, coefficients)

    def _step_under_vmap(self, coefficients: Sequence[Any], grads: dict[str, Tensor], count: int) -> None:
        like = next(iter(self.params.values()))

        def stack_coefficients(position: int) -> Any:
            keys = hashing.keys(0, position, count) if self._program.needs_keys else {}
            # Computed for each member in Python's float64, as the loop computes them.
            table = torch.tensor([c._replace(**keys) for c in coefficients], dtype=torch.float64, device="cpu")
            return type(coefficients[0])(*table.to(like.device, compute_dtype(like.dtype)).unbind(1))

        def update_member(params: Any, grads: Any, states: Any, coefficients: Any) -> Any:
            pairs = zip(params, itertools.cycle(coefficients))  # the list has one entry for all, or one for each name
            items = [loop.TensorStep(self._program, params[name], grads[name], states[name], c) for name, c in pairs]
            return dict(zip(params, loop.update(items), strict=True))

        # If random numbers are drawn, every tensor has its own scalars.
        positions = range(len(self.params) if self._program.needs_keys else 1)
        stacked_coefficients = [stack_coefficients(position) for position in positions]
        updated = torch.func.vmap(update_member)(self.params, grads, self.state, stacked_coefficients)
        for name, (param, state) in updated.items():
            # A result may be the stack itself, if a rule returns an input unchanged; the stacks are written here.
            results = (param.clone(), *map(Tensor.clone, state))
            for target, result in zip((self.params[name], *self.state[name]), results, strict=True):
                target.copy_(result)
