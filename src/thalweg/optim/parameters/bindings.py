"""Bindings: all bindings of an optimizer, created when they are needed and again when they are no longer valid."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from itertools import chain

import torch
from torch import Tensor

from thalweg.engine.backends import Backend, BatchRunner
from thalweg.engine.core import shards, threads
from thalweg.engine.core.batch import BatchStep, is_dense
from thalweg.engine.core.object_ids import ObjectList
from thalweg.engine.core.program import Program
from thalweg.engine.core.written_memory import WrittenMemory
from thalweg.errors import ParameterError
from thalweg.optim.parameters.binding import Binding, State, is_engine_view
from thalweg.optim.parameters.parameter_checks import check_placement
from thalweg.optim.state.scalar_state import ScalarArray, ScalarState
from thalweg.optim.state.shared_state import MODEL_STEPS, Peers, newest_model_steps
from thalweg.optim.state.state_entries import as_engine_tensor
from thalweg.rules import Rule
from thalweg.rules import record as named_tuple

GroupBindings = list[tuple[Binding, list[int]]]  # of some parameters of a group, with the indices of those of each
ProgramFor = Callable[[torch.dtype], Program]  # the program of a group for parameters of a dtype

# Sets of parameters with gradients that stay bound, beside one for each group. A mixture of experts has many sets, and
# to bind takes a while.
_MAX_SETS = 32


class UnknownParameterError(Exception):
    """A parameter was not in the optimizer when its bindings were created."""


class Bindings:
    """All bindings of an optimizer.

    Args:
        groups: The parameters of each group.
        state: The state of the optimizer.
        scalars: The scalars of all parameters. Defaults to those on the host.
        binding: The class of the bindings.

    Attributes:
        state: The state of the optimizer.
        has_duplicates: True if a group has a parameter twice.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Tensor]],
        state: State,
        scalars: ScalarState | None = None,
        binding: type[Binding] = Binding,
    ) -> None:
        params = [*chain.from_iterable(groups)]
        self._max_sets = _MAX_SETS + len(groups)
        self._scalars = scalars or ScalarState(len(params))
        self._binding = binding
        self.state = state
        self._params = params  # held, so that an id means the same parameter for as long as this object exists
        self._positions = {id(param): position for position, param in enumerate(params)}
        self.has_duplicates = len(self._positions) < len(params)
        self._bindings: dict[tuple[int, ...], GroupBindings] = {}
        # The last lookups, by number of parameters and first parameter: to compare is cheaper than to hash all ids.
        self._recent: dict[tuple[int, int], tuple[ObjectList, GroupBindings]] = {}
        self._records = ObjectList(state.values())
        self._written_memory: dict[tuple[int, ...], WrittenMemory] = {}  # by the ids of bindings

    def follow_state(self) -> None:
        """Discard all bindings if other code has written to the state."""
        if not self._records.equals(list(self.state.values())):
            self._bindings.clear()
            self._recent.clear()
            self._written_memory.clear()

    def valid(self, params: Sequence[Tensor], program_for: ProgramFor) -> GroupBindings | None:
        """Return the bindings of parameters of one group, or None if there are none that are still valid."""
        recent = self._recent.get((len(params), id(params[0]) if params else 0))
        for binding, _ in recent[1] if recent else ():
            binding.prefetch()
        bindings = self._lookup(params)
        if bindings and all(binding.is_valid(program_for(binding.dtype)) for binding, _ in bindings):
            return bindings
        return None

    def _lookup(self, params: Sequence[Tensor]) -> GroupBindings | None:
        key = len(params), id(params[0]) if params else 0
        if key in self._recent:
            recent_params, bindings = self._recent[key]
            if recent_params.equals(list(params)):
                return bindings
        match = self._bindings.get(tuple(map(id, params)))
        if match is not None:
            self._recent[key] = ObjectList(params), match
        return match

    def get_or_create(
        self, params: Sequence[Tensor], program_for: ProgramFor, backend: Backend | None, peers: Peers
    ) -> GroupBindings:
        """Return the valid bindings of parameters of one group; create them if there are none.

        Args:
            params: The parameters.
            program_for: The programs of the group.
            backend: The backend that must run the steps, or None for the fastest.
            peers: Returns the records of all parameters that share state with these.

        Raises:
            UnknownParameterError: If a parameter was not in the optimizer when this object was created.
            ParameterError: If the rule cannot optimize a parameter.
        """
        bindings = self.valid(params, program_for)
        if bindings is None:
            if len(set(map(id, params))) < len(params):
                raise ParameterError(
                    f"{program_for(params[0].dtype).rule.name}: a group must not get a parameter a second time after "
                    "its first step. Remove it from the group's params."
                )
            if len(self._bindings) >= self._max_sets:
                self._bindings.clear()
            if not all(id(param) in self._positions for param in params):
                raise UnknownParameterError
            # As at construction, since the model may have been sharded after its optimizer was created.
            divided = shards.divided(self._params)
            for dtype in {param.dtype for param in params} if divided else ():
                program = program_for(dtype)
                check_placement(program.rule.name, program.rule, params, divided, program.rounding)
            bindings = [
                (self._create([params[index] for index in indices], program_for, backend, peers), indices)
                for indices in group_compatible(params, program_for)
            ]
            self._recent.clear()
            self._written_memory.clear()
            self._bindings[tuple(map(id, params))] = bindings
            self._records = ObjectList(self.state.values())
        return bindings

    def separate_gradients(self, steps: list[tuple[Binding, BatchStep]]) -> list[tuple[Binding, BatchStep]]:
        """Return steps whose gradients share no memory with parameters or state: those that do are copied."""
        bindings = [binding for binding, _ in steps]
        key = tuple(map(id, bindings))
        memory = self._written_memory.get(key)
        if memory is None:
            memory = self._written_memory[key] = WrittenMemory([binding.batch for binding in bindings])
        return [(binding, memory.separate(k, step)) for k, (binding, step) in enumerate(steps)]

    def _create(self, params: list[Tensor], program_for: ProgramFor, backend: Backend | None, peers: Peers) -> Binding:
        positions = [self._positions[id(param)] for param in params]
        program = program_for(params[0].dtype)
        with threads.one_thread() if threads.inherited_team else nullcontext():  # which fills the state
            return self._binding(program, params, positions, self.state, self._scalars, backend, peers)

    def adopt_recurrent_scalars(self, param: Tensor, rule: Rule) -> tuple[int, dict[str, ScalarArray]]:
        """Return the position of a parameter, and the arrays of its recurrent scalars, which hold them from now on."""
        position, record = self._positions[id(param)], self.state[param]
        arrays = {name: self._scalars.recurrent_scalars(name) for name in rule.traits.recurrent_scalars}
        for name, initial in rule.traits.recurrent_scalars.items():
            first = initial
            if name == MODEL_STEPS and name not in record:
                first = newest_model_steps([record])
            arrays[name].adopt(record, name, position, first)
        return position, arrays

    def count_missed_step(self, params: Sequence[Tensor], rule: Rule) -> None:
        """Count a step of the optimizer for parameters of one group that have state but no gradient."""
        for param in params:
            position, arrays = self.adopt_recurrent_scalars(param, rule)
            previous = named_tuple(**{name: array.at([position])[0] for name, array in arrays.items()})
            for name, value in rule.missed_recurrent_scalars(previous).items():
                arrays[name].put([position], [value])

    def runners(self) -> dict[int, BatchRunner]:
        """Return the runner of each parameter that has taken a step, by the parameter's id."""
        bindings = [binding for group_bindings in self._bindings.values() for binding, _ in group_bindings]
        return {id(param): binding.runner for binding in bindings for param in binding.params}


def group_compatible(params: Sequence[Tensor], program_for: ProgramFor) -> list[list[int]]:
    """Return the indices of the parameters that can step together: of one program, dtype, device and memory format."""
    parts: dict[Hashable, list[int]] = {}
    program_keys: dict[Hashable, Hashable] = {}
    for index, param in enumerate(params):
        kind = (param.shape, param.dtype)
        if kind not in program_keys:
            program_keys[kind] = program_for(param.dtype).key(as_engine_tensor(param).shape, param.dtype)
        parts.setdefault((program_keys[kind], *_memory_format(param)), []).append(index)
    return list(parts.values())


def _memory_format(param: Tensor) -> tuple[Hashable, ...]:
    memory = as_engine_tensor(param)
    return param.device, is_engine_view(param), memory.is_contiguous(), is_dense(memory)
