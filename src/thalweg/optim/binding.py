"""Binding: the parameters of a group that step together, bound to their entries in `optimizer.state`.

`optimizer.state` is the only record of what is remembered, as in torch: users, checkpoints and other libraries read
and replace its entries. A binding holds the tensors found there, and checks before each step that they still are.
"""

from array import array
from collections.abc import Callable, Hashable, MutableMapping, Sequence
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.backends import Backend, BatchRunner
from thalweg.engine.core import precision
from thalweg.engine.core.batch import BatchStep, ParameterBatch, is_dense
from thalweg.engine.core.program import Program
from thalweg.engine.core.shards import shards_of
from thalweg.engine.eager import loop
from thalweg.errors import ParameterError
from thalweg.optim.scalar_state import ScalarState
from thalweg.optim.state_entries import as_engine_tensor, complete
from thalweg.rules import Rule

State = MutableMapping[Tensor, dict[str, Any]]


class Binding:
    """Parameters, their positions in the optimizer, their state, and the way they are run."""

    def __init__(
        self,
        program: Program,
        params: Sequence[Tensor],
        positions: Sequence[int],
        state: State,
        scalars: ScalarState,
        asked: Backend | None,
    ) -> None:
        self.program, self.params = program, list(params)
        # A range where it is one, which is compared at once.
        self.positions: Sequence[int] = (
            range(len(params)) if list(positions) == [*range(len(params))] else list(positions)
        )
        self.dtype = params[0].dtype
        self.records = [state.setdefault(param, {}) for param in params]
        self._counts = scalars.steps
        self._carried = [scalars.recurrent_scalars(name) for name in program.rule.traits.recurrent_scalars]
        layout = program.layout(as_engine_tensor(params[0]).shape)
        for record, param, position in zip(self.records, params, positions, strict=True):
            if param.is_conj() or param.is_neg():
                raise ParameterError(
                    f"{program.rule.name}: a parameter must hold its own numbers, got a view of shape "
                    f"{tuple(param.shape)} yet to be conjugated or negated. Pass its resolve_conj().resolve_neg()."
                )
            # torch's SGD keeps no count: what remembers something has stepped before.
            remembers = any(record.get(leaf.key) is not None for leaf in layout.values())
            self._counts.adopt(record, "step", position, float(remembers))
            recurrent = program.rule.traits.recurrent_scalars
            for numbers, (name, first) in zip(self._carried, recurrent.items(), strict=True):
                numbers.adopt(record, name, position, first)
            complete(record, program, param)
        self._entries = {
            key: [record[key] for record in self.records]
            for key in ("step", *program.rule.traits.recurrent_scalars, *(leaf.key for leaf in layout.values()))
        }
        columns = {
            name: [as_engine_tensor(entry) for entry in self._entries[leaf.key]] for name, leaf in layout.items()
        }
        # Numbers are moved all at once, into shared memory, say: to look at each before every step would be too slow.
        counted = [self._entries[key][0] for key in ("step", *program.rule.traits.recurrent_scalars)]
        self.batch = ParameterBatch(
            program, [as_engine_tensor(param) for param in params], columns, list(map(shards_of, params)), counted
        )
        # What the batch holds of a complex or sharded parameter is a view, which stays where `param.data` has left.
        self._views = _is_view(params[0])
        if hasattr(params[0], "to_local") and (program.rule.traits.needs_whole_matrices or program.needs_keys):
            raise ParameterError(
                f"{program.rule.name}: sharded parameters need a rule that takes no whole matrices and draws no random "
                f"numbers, got a DTensor of shape {tuple(params[0].shape)}. Use another rule, or another rounding."
            )
        self._ids = array("Q", map(id, self.records))
        self._lies = self._where()
        self._key = program.key(self.batch.params[0].shape, self.batch.dtype)
        self.runner = BatchRunner(self.batch, asked)

    def prefetch(self) -> None:
        """Bring what `holds` looks at into the cache."""
        self.batch.prefetch(self._ids)

    def holds(self, program: Program) -> bool:
        """Whether everything is still as it was bound: parameters in their place, entries of the state the same."""
        return (
            (program is self.program or program.key(self.batch.params[0].shape, self.batch.dtype) == self._key)
            and self.batch.unchanged()
            and (not self._views or self._where() == self._lies)
            and self._has_entries()
        )

    def _has_entries(self) -> bool:
        try:
            return all(
                all(map(is_, map(itemgetter(key), self.records), entries)) for key, entries in self._entries.items()
            )
        except KeyError:  # the user has taken one away
            return False

    def _where(self) -> list[Any]:
        each = map(as_engine_tensor, self.params)
        return [(memory.data_ptr(), memory.shape, memory.stride(), memory.dtype) for memory in each]

    def step(self, program: Program, grads: Sequence[Tensor], seed: int) -> BatchStep:
        """The step to take with these gradients, at the numbers of `program`. Writes nothing."""
        sparse = False
        if self._views:
            grads = [as_engine_tensor(grad) for grad in grads]
        gradient_addresses = self.batch.gradient_addresses(grads)
        if gradient_addresses is None:
            noop_on_zero_grad = program.rule.traits.noop_on_zero_grad and not program.needs_index
            sparse = noop_on_zero_grad and any(grad.is_sparse for grad in grads)
            grads = [
                _aligned(grad, param, program.rule, noop_on_zero_grad=noop_on_zero_grad)
                for param, grad in zip(self.batch.params, grads, strict=True)
            ]
        return BatchStep(self.batch, grads, self._rows(program, seed), gradient_addresses, sparse)

    def _rows(self, program: Program, seed: int) -> list[Any]:
        """The scalars of the next step of each parameter, the same object where they agree."""
        if not program.needs_keys and not program.rule.traits.recurrent_scalars:
            count = self._counts.shared(self.positions)
            if count is not None:
                return [program.coefficients(int(count) + 1)] * len(self.params)
        taken = self._counts.at(self.positions)
        if program.needs_keys:
            each = zip(taken, self._before(), self.positions, strict=True)
            return [program.coefficients(int(k) + 1, previous=before, seed=seed, position=at) for k, before, at in each]
        if program.rule.traits.recurrent_scalars:
            pairs = list(zip(taken, self._before(), strict=True))
            made = {pair: program.coefficients(int(pair[0]) + 1, previous=pair[1]) for pair in set(pairs)}
            return [made[pair] for pair in pairs]
        rows = {count: program.coefficients(int(count) + 1) for count in set(taken)}
        return [rows[count] for count in taken]

    def _before(self) -> list[tuple[float, ...]]:
        """What each parameter carries on from its last step."""
        if not self._carried:
            return [()] * len(self.positions)
        return list(zip(*(numbers.at(self.positions) for numbers in self._carried), strict=True))

    def items(self, step: BatchStep) -> list[loop.TensorStep]:
        """A step, tensor by tensor."""
        batch = step.batch
        each = enumerate(zip(batch.params, step.grads, step.coefficients, batch.shards, strict=True))
        return [loop.TensorStep(self.program, param, grad, batch.state(k), *more) for k, (param, grad, *more) in each]

    def keep(self, k: int, param: Tensor, state: Any) -> None:
        """Take what a step made of the parameter number `k`: it is written in place, the entries of its state anew."""
        self.batch.params[k].copy_(param)
        layout = self.program.layout(self.batch.params[0].shape)
        for name in self.batch.columns:
            leaf = getattr(state, name)
            kept = torch.view_as_complex(leaf) if self.params[k].is_complex() else leaf
            self.records[k][layout[name].key] = kept

    def evaluation_points(self, program: Program) -> list[tuple[Tensor, Tensor]]:
        """Each parameter with the value at which the model is to be used."""
        found = []
        for k, (param, taken) in enumerate(zip(self.batch.params, self._counts.at(self.positions), strict=True)):
            c = program.coefficients(max(1, int(taken)))
            found.append((param, program.evaluation_point(param, self.batch.state(k), c)))
        return found

    def update_curvature(self, program: Program, curvature: Sequence[Tensor]) -> None:
        """Take estimates of the Hessian's diagonal into the state, one for each parameter."""
        for k, (estimate, taken) in enumerate(zip(curvature, self._counts.at(self.positions), strict=True)):
            c = program.coefficients(int(taken) + 1)
            state = self.batch.state(k)
            estimate = as_engine_tensor(estimate).to(precision.compute_dtype(self.dtype))
            for column, leaf in zip(
                self.batch.columns.values(), program.rule.update_curvature(state, estimate, c), strict=True
            ):
                column[k].copy_(leaf)

    def count(self, step: BatchStep) -> None:
        """Count the step that was taken, and remember the scalars that it carries on."""
        self._counts.add_one(self.positions)
        for name, numbers in zip(self.program.rule.traits.recurrent_scalars, self._carried, strict=True):
            numbers.put(self.positions, (getattr(row, name) for row in step.coefficients))


@torch.enable_grad()
def step_differentiably(ready: Sequence[tuple[Binding, BatchStep]]) -> None:
    """Take steps that autograd records."""
    slots = [(binding, k) for binding, step in ready for k in range(len(step.coefficients))]
    items = [item for binding, step in ready for item in binding.items(step)]
    for (binding, k), made in zip(slots, loop.update(items), strict=True):
        binding.keep(k, *made)


GroupBindings = list[tuple[Binding, list[int]]]


class UnknownParameterError(Exception):
    """A parameter was none of the optimizer when its bindings were made."""


class Bindings:
    """All bindings of an optimizer, made when they are needed and again when they no longer hold."""

    # Sets of parameters that have a gradient together, beside one for each group; a mixture of experts has many, and
    # binding takes a while.
    _MOST = 32

    def __init__(self, groups: Sequence[Sequence[Tensor]], state: State) -> None:
        params = [*chain.from_iterable(groups)]
        self._most = self._MOST + len(groups)
        self._scalars = ScalarState(len(params))
        self.state = state
        self._params = params  # held, so that an id means the same parameter for as long as it is known here
        self._positions = {id(param): position for position, param in enumerate(params)}
        self._made: dict[tuple[int, ...], GroupBindings] = {}
        # The last ones found, by how many there are and which is first: comparing is cheaper than looking up.
        self._recent: dict[tuple[int, int], tuple[Sequence[Tensor], GroupBindings]] = {}
        self._records = list(state.values())

    def follow_state(self) -> None:
        """Forget all that is bound if somebody else has written to the state."""
        if not (len(self.state) == len(self._records) and all(map(is_, self.state.values(), self._records))):
            self._made.clear()
            self._recent.clear()

    def known(self, params: Sequence[Tensor], programs: Callable[[torch.dtype], Program]) -> GroupBindings | None:
        """The bindings of parameters of one group, each with the places of its own among them, if they still hold."""
        recent = self._recent.get((len(params), id(params[0]) if params else 0))
        for binding, _ in recent[1] if recent else ():
            binding.prefetch()
        made = self._found(params)
        return made if made and all(binding.holds(programs(binding.dtype)) for binding, _ in made) else None

    def _found(self, params: Sequence[Tensor]) -> GroupBindings | None:
        key = len(params), id(params[0]) if params else 0
        if key in self._recent:
            known, made = self._recent[key]
            if all(map(is_, params, known)):
                return made
        found = self._made.get(tuple(map(id, params)))
        if found is not None:
            self._recent[key] = list(params), found
        return found

    def of(
        self, params: Sequence[Tensor], programs: Callable[[torch.dtype], Program], asked: Backend | None
    ) -> GroupBindings:
        """The same, made if need be. Raises UnknownParameterError."""
        made = self.known(params, programs)
        if made is None:
            if len(self._made) >= self._most:
                self._made.clear()
            made = [
                (self._bound([params[place] for place in places], programs, asked), places)
                for places in group_compatible(params, programs)
            ]
            self._recent.clear()
            self._made[tuple(map(id, params))] = made
            self._records = list(self.state.values())
        return made

    def _bound(
        self, params: list[Tensor], programs: Callable[[torch.dtype], Program], asked: Backend | None
    ) -> Binding:
        try:
            positions = [self._positions[id(param)] for param in params]
        except KeyError:
            raise UnknownParameterError from None
        return Binding(programs(params[0].dtype), params, positions, self.state, self._scalars, asked)

    def runners(self) -> dict[int, BatchRunner]:
        """How each parameter that has taken a step is run, by its id."""
        made = [binding for bound in self._made.values() for binding, _ in bound]
        return {id(param): binding.runner for binding in made for param in binding.params}


def group_compatible(params: Sequence[Tensor], programs: Callable[[torch.dtype], Program]) -> list[list[int]]:
    """The places of the parameters that can step together: one program, dtype, device and kind of memory each."""
    parts: dict[Hashable, list[int]] = {}
    keys: dict[Hashable, Hashable] = {}
    for place, param in enumerate(params):
        kind = (param.shape, param.dtype)
        if kind not in keys:
            keys[kind] = programs(param.dtype).key(as_engine_tensor(param).shape, param.dtype)
        parts.setdefault((keys[kind], *_kind_of_memory(param)), []).append(place)
    return list(parts.values())


def _kind_of_memory(param: Tensor) -> tuple[Hashable, ...]:
    memory = as_engine_tensor(param)
    return param.device, _is_view(param), memory.is_contiguous(), is_dense(memory)


def _is_view(param: Tensor) -> bool:
    return param.is_complex() or hasattr(param, "to_local")


def _aligned(grad: Tensor, param: Tensor, rule: Rule, *, noop_on_zero_grad: bool) -> Tensor:
    """A gradient as its parameter lies in memory, or sparse where that will do; a wrong one raises ParameterError."""
    who = rule.name
    for what, found, wanted in (
        ("dtype", grad.dtype, param.dtype),
        ("device", grad.device, param.device),
        ("shape", tuple(grad.shape), tuple(param.shape)),
    ):
        if found != wanted:
            raise ParameterError(
                f"{who}: a gradient must have the {what} of its parameter, {wanted}, got {found}. "
                "Was it assigned by hand, or param.data replaced after backward()?"
            )
    if grad.is_sparse:
        if not rule.traits.supports_sparse:
            raise ParameterError(
                f"{who}: gradients must be dense, got a sparse one for a parameter of shape {tuple(param.shape)}. "
                "Use sparse=False in the embedding, or an optimizer that takes sparse gradients (SGD, AdaGrad)."
            )
        if noop_on_zero_grad:
            return grad.coalesce()
        grad = grad.to_dense()
    return torch.empty_like(param).copy_(grad)
