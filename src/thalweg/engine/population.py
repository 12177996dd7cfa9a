"""Population: many models, each with its own settings, stepped in place as one.

Every tensor has one more dimension in front, that of the members. Members may differ in numbers but not in switches or
in the names of their state, since those choose the program. For an elementwise rule, the members' slices are tensors of
one batch, which one kernel steps in one call. Other rules run on the loop under `torch.func.vmap`.

On a device, a step needs nothing from the host: scalars of many steps are uploaded ahead. All parameters of an
elementwise rule are one matrix there, since a step of small tensors costs the number of its operations.
"""

import itertools
from array import array
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.backends import BatchRunner
from thalweg.engine.core.batch import ParameterBatch, unaliased
from thalweg.engine.core.precision import compute_dtype
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.engine.graphs import upload
from thalweg.rules import Rule
from thalweg.rules.math import hashing

MAX_LOADED = 64  # steps whose scalars are uploaded at once


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
        # If random numbers are drawn, every tensor has its own scalars.
        positions = range(len(self.params) if self._program.needs_keys else 1)
        steps: list[list[Any]] = []
        for count, members in enumerate(rules, start=first):
            coefficients = self._next_coefficients(members, count)
            steps.append([])
            for position in positions:
                keys = hashing.step_keys(0, position, count) if self._program.needs_keys else {}
                steps[-1].append([c._replace(**keys) for c in coefficients] if keys else coefficients)
        self._scalars.load(steps)

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


class ScalarTable:
    """The scalars of the next steps of all members, on the device. A counter there selects those of a step.

    Args:
        device: The device of the members.
        dtype: Their compute dtype, to which the scalars are rounded once.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._record: Any = None
        self._table: Tensor | None = None

    def load(self, steps: Sequence[Sequence[Sequence[Any]]]) -> None:
        """Replace the table.

        Args:
            steps: Records of scalars, by step, position and member; ``MAX_LOADED`` steps at most.
        """
        assert 0 < len(steps) <= MAX_LOADED
        self._record = type(steps[0][0][0])
        shape = (len(steps), len(steps[0]), len(steps[0][0]), len(self._record._fields))
        records = itertools.chain.from_iterable(itertools.chain.from_iterable(steps))
        numbers = array("d", itertools.chain.from_iterable(records))
        rows = torch.frombuffer(numbers, dtype=torch.float64) if numbers else torch.empty(0, device="cpu")
        if self._table is None:
            # Its address stays, as graphs need it.
            self._table = torch.zeros(MAX_LOADED, *shape[1:], device=self._device, dtype=self._dtype)
            self._next = torch.zeros(1, device=self._device, dtype=torch.int64)
        upload(self._table[: len(steps)], rows.to(self._dtype).view(shape))
        self._next.zero_()

    def take(self) -> list[Any]:
        """Return the scalars of the next step: for each position a record of tensors of shape ``(members,)``."""
        assert self._table is not None, "scalars must be loaded"
        (row,) = self._table.index_select(0, self._next)
        self._next.add_(1)
        return [self._record(*position.unbind(1)) for position in row]


def _join(stacks: Iterable[Tensor]) -> Tensor:
    """Return stacks of tensors as one matrix, with a row for each member."""
    return torch.cat([stack.reshape(len(stack), stack.shape[1:].numel()) for stack in stacks], 1)


def _split(matrix: Tensor, stacks: Iterable[Tensor]) -> list[Tensor]:
    """Return the parts of a matrix that ``_join`` made, in the shapes of these stacks."""
    shapes = [stack.shape for stack in stacks]
    parts = torch.split(matrix, [shape[1:].numel() for shape in shapes], 1)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
