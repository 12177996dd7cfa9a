"""Population: many models, each with its own settings, stepped in place as one.

Every tensor has one more dimension in front, that of the members. Members may differ in numbers but not in switches or
in the names of their state, since those choose the program. For an elementwise rule, the members' slices are tensors of
one batch, which one kernel steps in one call. Other rules run on the loop under `torch.func.vmap`.

On a device, a step needs nothing from the host: scalars of many steps are uploaded ahead. All parameters of an
elementwise rule are one matrix there, since a step of small tensors costs the number of its operations.
"""

import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.backends import BatchRunner
from thalweg.engine.core.batch import ParameterBatch, unaliased
from thalweg.engine.core.precision import compute_dtype
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.engine.scalars.population import RuleAt, ScalarTable, schedule_for
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

    ``step`` takes the scalars of a step from the host. On a device that would cost the host more than the step, and a
    graph cannot repeat it. So a stepper whose scalars are ``on_device`` has two halves: ``load_scalars`` uploads the
    scalars of several steps, and ``step_loaded`` takes one step after the other by operations on the device alone.

    Args:
        rules: The rule of each member; their ``program_key`` is equal.
        params: The stacked parameters by name, of shape ``(members, *shape)``.
        on_device: True if every step reads its scalars from the device.

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

    def __init__(self, rules: Sequence[Rule], params: dict[str, Tensor], *, on_device: bool = False) -> None:
        self.params = params
        self._on_device = on_device
        self._program = Program(rules[0])
        states = {
            name: [Program(rule).init(member) for rule, member in zip(rules, param, strict=True)]
            for name, param in params.items()
        }
        self.state = {
            name: type(members[0])(*map(torch.stack, zip(*members, strict=True))) for name, members in states.items()
        }
        self._recurrent_scalars = [Program(rule).initial_recurrent_scalars() for rule in rules]
        self._bind()

    def keep(self, members: Sequence[int], params: dict[str, Tensor]) -> None:
        """Drop all members but some. Scalars that were loaded and not used are dropped too.

        Args:
            members: The indices of the members that stay.
            params: Their stacked parameters, by name.
        """
        self.params = params
        self.state = {
            name: type(state)(*(entry[list(members)] for entry in state)) for name, state in self.state.items()
        }
        self._recurrent_scalars = [self._recurrent_scalars[k] for k in members]
        self._bind()

    def _bind(self) -> None:
        """Prepare steps of the members that there are."""
        self._runner: BatchRunner | None = None
        self._joined_state: Any = None
        like = next(iter(self.params.values()))
        self._scalars = ScalarTable(like.device, compute_dtype(like.dtype))
        if self._program.rule.traits.scope != "elementwise":
            return
        if not self._on_device:
            self._runner = self._bind_members()
        elif not self._program.needs_keys and self._state_has_shape_of_parameters():
            self._joined_state = self._join_state()

    def _bind_members(self) -> BatchRunner:
        """Return all members' slices of all tensors as one batch."""
        slices = {name: list(param.unbind()) for name, param in self.params.items()}
        members = [zip(*(entry.unbind() for entry in state), strict=True) for state in self.state.values()]
        fields = next(iter(self.state.values()))._fields
        states = list(itertools.chain.from_iterable(members)) if fields else []
        columns = {field: [state[k] for state in states] for k, field in enumerate(fields)}
        return BatchRunner(ParameterBatch(self._program, list(itertools.chain(*slices.values())), columns))

    def _state_has_shape_of_parameters(self) -> bool:
        return all(
            state._fields == next(iter(self.state.values()))._fields
            and all(entry.shape == self.params[name].shape for entry in state)
            for name, state in self.state.items()
        )

    def _join_state(self) -> Any:
        """Return the state as matrices of one row a member, and make the entries of each parameter views of them."""
        states = list(self.state.values())
        joined = [_join(entries) for entries in zip(*states, strict=True)]
        parts = zip(*(_split(matrix, self.params.values()) for matrix in joined), strict=True)
        for name, state, entries in zip(self.state, states, parts, strict=False):  # a rule may have no state
            self.state[name] = type(state)(*entries)
        return type(states[0])(*joined)

    def load_scalars(self, rules: Sequence[Sequence[Rule]], first: int) -> None:
        """Compute the scalars of several steps on the host, in float64 as the loop does, and upload them.

        Args:
            rules: For each step, the rule of each member at the settings of this step; ``MAX_LOADED`` steps at most.
            first: The number of the first step, from 1.
        """
        steps = []
        for count, members in enumerate(rules, start=first):
            coefficients = self._next_coefficients(members, count)
            # If random numbers are drawn, every tensor has its own scalars.
            keys = [hashing.step_keys(0, position, count) for position in range(len(self.params))]
            steps.append(
                [[c._replace(**k) for c in coefficients] for k in keys] if self._program.needs_keys else [coefficients]
            )
        self._scalars.load_records(steps)

    def load_schedule(self, rules: Sequence[Rule], factors: Sequence[float], first: int, rule_at: RuleAt) -> None:
        """Upload the scalars of several steps as ``load_scalars`` does, and to the same bits, in far less time.

        Args:
            rules: The rule of each member, before the schedule.
            factors: The number of each step on which its rules depend; ``MAX_LOADED`` steps at most.
            first: The number of the first step, from 1.
            rule_at: Returns the rule of a member in a step, given its rule before the schedule and the step's number.
                Equal functions do the same.
        """
        schedule = schedule_for(self._program, rules[0], rule_at)
        computed = schedule.rows(rules, factors, first, self._recurrent_scalars)
        if computed is None:
            self.load_scalars([[rule_at(rule, factor) for rule in rules] for factor in factors], first)
            return
        self._scalars.load(schedule.record, computed.rows.unsqueeze(1))
        self._recurrent_scalars = computed.recurrent_scalars

    def _next_coefficients(self, rules: Sequence[Rule], count: int) -> list[Any]:
        """Return the scalars of the next step of each member."""
        coefficients = [
            Program(rule).coefficients(count, previous=previous)
            for rule, previous in zip(rules, self._recurrent_scalars, strict=True)
        ]
        self._recurrent_scalars = [self._program.recurrent_scalars_of(c) for c in coefficients]
        return coefficients

    @torch.no_grad()
    def step(self, rules: Sequence[Rule], grads: dict[str, Tensor], count: int) -> None:
        """Take a step.

        Args:
            rules: The rule of each member, at the settings of this step.
            grads: The stacked gradients, by name.
            count: The number of the step, from 1.
        """
        if self._runner is None:
            self.load_scalars([rules], count)
            self.step_loaded(grads)
            return
        coefficients = self._next_coefficients(rules, count)
        stacks = [grads[name].contiguous() for name in self.params]
        for stack, param in zip(stacks, self.params.values(), strict=True):
            assert (stack.shape, stack.dtype, stack.device) == (param.shape, param.dtype, param.device)
        assert self._runner.batch.unchanged(), "nobody else may replace the memory of stacked parameters"
        self._runner.run_stacks(stacks, coefficients)

    @torch.no_grad()
    def step_loaded(self, grads: dict[str, Tensor]) -> None:
        """Take the next step whose scalars are loaded. All operations are on the device, so a graph can repeat them.

        Args:
            grads: The stacked gradients, by name.
        """
        scalars = self._scalars.take()
        if self._joined_state is None:
            self._step_under_vmap(scalars, grads)
        else:
            self._step_joined(scalars[0], grads)

    def _step_joined(self, scalars: Any, grads: dict[str, Tensor]) -> None:
        """Step all parameters as one matrix of a row for each member: as many operations as for one parameter."""
        param, grad = _join(self.params.values()), _join([grads[name] for name in self.params])
        column = type(scalars)(*(scalar.unsqueeze(1) for scalar in scalars))
        ((new_param, new_state),) = loop.update(
            [loop.TensorStep(self._program, param, grad, self._joined_state, column)]
        )
        targets = [param, *self._joined_state]
        new_param, *entries = unaliased([new_param, *new_state], targets)
        for target, entry in zip(self._joined_state, entries, strict=True):
            target.copy_(entry)
        params = list(self.params.values())
        torch._foreach_copy_(params, _split(new_param, params))

    def _step_under_vmap(self, scalars: Sequence[Any], grads: dict[str, Tensor]) -> None:
        def update_member(params: Any, grads: Any, states: Any, scalars: Any) -> Any:
            pairs = zip(params, itertools.cycle(scalars))  # the list has one entry for all, or one for each name
            items = [loop.TensorStep(self._program, params[name], grads[name], states[name], c) for name, c in pairs]
            return dict(zip(params, loop.update(items), strict=True))

        updated = torch.func.vmap(update_member)(self.params, grads, self.state, scalars)
        for name, (param, state) in updated.items():
            # A result may be the stack itself, if a rule returns an input unchanged; the stacks are written here.
            results = (param.clone(), *map(Tensor.clone, state))
            for target, result in zip((self.params[name], *self.state[name]), results, strict=True):
                target.copy_(result)


def _join(stacks: Iterable[Tensor]) -> Tensor:
    """Return stacks of tensors as one matrix, with a row for each member."""
    return torch.cat([stack.reshape(len(stack), stack.shape[1:].numel()) for stack in stacks], 1)


def _split(matrix: Tensor, stacks: Iterable[Tensor]) -> list[Tensor]:
    """Return the parts of a matrix that ``_join`` made, in the shapes of these stacks."""
    shapes = [stack.shape for stack in stacks]
    parts = torch.split(matrix, [shape[1:].numel() for shape in shapes], 1)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
