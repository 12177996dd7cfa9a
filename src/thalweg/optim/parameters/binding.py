"""Binding: the parameters of a group that step together, bound to their entries in `optimizer.state`.

As in torch, `optimizer.state` is the only record of the state. Users, checkpoints and other libraries read its entries
and replace them. A binding holds the tensors of these entries and checks before each step that they are still there.
"""

from array import array
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import backends
from thalweg.engine.backends import Backend, BatchRunner
from thalweg.engine.core import precision
from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.core.object_ids import ObjectList
from thalweg.engine.core.plain_tensors import address
from thalweg.engine.core.program import Program
from thalweg.engine.core.shards import is_dtensor, shards_of
from thalweg.engine.eager import loop
from thalweg.errors import ParameterError, SettingError
from thalweg.optim.parameters.parameter_checks import check_storage
from thalweg.optim.state.scalar_state import ScalarState
from thalweg.optim.state.shared_state import MODEL_STEPS, Peers, newest_entry, newest_model_steps, shared_keys, write
from thalweg.optim.state.state_entries import as_engine_gradient, as_engine_tensor, complete
from thalweg.rules import Rule

State = MutableMapping[Tensor, dict[str, Any]]


class Binding:
    """Parameters of one program, dtype and device with their positions in the optimizer, their state and their runner.

    Args:
        program: The program of the group when the binding is created.
        params: The parameters.
        positions: The position of each parameter in the optimizer.
        state: The state of the optimizer. Missing entries are added to it.
        scalars: The scalars of all parameters of the optimizer.
        backend: The backend that must run the steps, or None for the fastest.
        peers: Returns the records of all parameters that share state with these.

    Attributes:
        program: The program of the group when the binding was created.
        params: The parameters.
        positions: The position of each parameter in the optimizer.
        dtype: The dtype of the parameters.
        records: The dictionary of each parameter in the state.
        batch: The parameters and their state as the engine runs them.
        runner: The batch with the backend that runs it.

    Raises:
        ParameterError: If the rule cannot optimize a parameter.
        SettingError: If the backend cannot run the parameters.
    """

    captured = False  # True if scalars are on the device

    def __init__(
        self,
        program: Program,
        params: Sequence[Tensor],
        positions: Sequence[int],
        state: State,
        scalars: ScalarState,
        backend: Backend | None,
        peers: Peers,
    ) -> None:
        self.program, self.params = program, list(params)
        # Consecutive positions are a range, which compares in constant time.
        self.positions: Sequence[int] = (
            range(len(params)) if list(positions) == [*range(len(params))] else list(positions)
        )
        self.dtype = params[0].dtype
        self.records = [state.setdefault(param, {}) for param in params]
        self._is_view = is_engine_view(params[0])
        recurrent = dict(program.rule.traits.recurrent_scalars)
        if MODEL_STEPS in recurrent:
            recurrent[MODEL_STEPS] = newest_model_steps(peers())
        self._step_counts = scalars.steps
        self._recurrent_scalars = [scalars.recurrent_scalars(name) for name in recurrent]
        layout = program.layout(as_engine_tensor(params[0]).shape)
        self._check_params()
        shared = self._shared_of_peers(peers)
        for record, param, position in zip(self.records, params, positions, strict=True):
            # torch's SGD saves no step count: a parameter with state has stepped before.
            has_state = any(record.get(declared.key) is not None for declared in layout.values())
            self._step_counts.adopt(record, "step", position, float(has_state))
            for scalar_array, (name, first) in zip(self._recurrent_scalars, recurrent.items(), strict=True):
                scalar_array.adopt(record, name, position, first)
            late = [key for key in shared if record.get(key) is None]
            complete(record, program, param)
            for key in late:
                write([record], key, shared[key])
        self._entries = {
            key: [record[key] for record in self.records]
            for key in ("step", *recurrent, *(declared.key for declared in layout.values()))
        }
        self._entry_lists = [(itemgetter(key), ObjectList(entries)) for key, entries in self._entries.items()]
        columns = {
            name: [as_engine_tensor(entry) for entry in self._entries[declared.key]]
            for name, declared in layout.items()
        }
        # If one scalar is moved (into shared memory, for example) all are. To watch every one would be too slow.
        watched = [self._entries[key][0] for key in ("step", *recurrent)]
        self.batch = ParameterBatch(
            program, [as_engine_tensor(param) for param in params], columns, list(map(shards_of, params)), watched
        )
        self._record_ids = array("Q", map(id, self.records))
        self._bound_layout = self._memory_layout()
        self._program_key = program.key(self.batch.params[0].shape, self.batch.dtype)
        self._last_program = program  # the last one whose code was compared
        self.runner = BatchRunner(self.batch, backend, captured=self.captured)

    def _check_params(self) -> None:
        rule = self.program.rule
        for param in self.params:
            check_storage(rule.name, param)
            if param.is_conj() or param.is_neg():
                raise ParameterError(
                    f"{rule.name}: a parameter must not be a lazy conjugate or negative view, got one of shape "
                    f"{tuple(param.shape)}. Pass its resolve_conj().resolve_neg()."
                )

    def _shared_of_peers(self, peers: Peers) -> dict[str, Tensor]:
        """Return the present value of each shared entry that some parameter has."""
        keys = shared_keys(self.program.rule, self.params[0]) if self.program.rule.traits.has_shared_state else []
        entries = {key: newest_entry(peers(), key) for key in keys}
        return {key: entry.clone() for key, entry in entries.items() if entry is not None}

    def prefetch(self) -> None:
        """Bring the memory that `is_valid` reads into the cache."""
        self.batch.prefetch(self._record_ids)

    def is_valid(self, program: Program) -> bool:
        """Return True if parameters, entries of the state and the code of the program are those that were bound."""
        return (
            self._has_code(program)
            and self.batch.unchanged()
            # The batch holds a view of a complex or sharded parameter. `param.data = ...` does not move the view.
            and (not self._is_view or self._memory_layout() == self._bound_layout)
            and self._has_entries()
        )

    def _has_code(self, program: Program) -> bool:
        if program is not self._last_program:
            if program.key(self.batch.params[0].shape, self.batch.dtype) != self._program_key:
                return False
            self._last_program = program
        return True

    def _has_entries(self) -> bool:
        try:
            return all(known.equals(list(map(entry_of, self.records))) for entry_of, known in self._entry_lists)
        except KeyError:  # the user has removed an entry
            return False

    def _memory_layout(self) -> list[Any]:
        tensors = map(as_engine_tensor, self.params)
        return [(address(tensor), tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors]

    def largest_step_count(self) -> int:
        """Return the largest number of steps that one of the parameters has taken."""
        return int(self._step_counts.largest(self.positions))

    def step(
        self, program: Program, grads: Sequence[Tensor], seed: int = 0, model_lr: float | None = None
    ) -> BatchStep:
        """Return the step with these gradients at the settings of a program. Nothing is written.

        Args:
            program: A program whose code is that of the bound one.
            grads: A gradient for each parameter.
            seed: The seed of random numbers.
            model_lr: The highest learning rate of all groups, for rules that depend on it.

        Returns:
            The step, which `BatchRunner.run` takes.

        Raises:
            ParameterError: If a gradient does not fit its parameter.
        """
        return self._step(program, grads, partial(self._coefficients, program, seed, model_lr))

    def _step(self, program: Program, grads: Sequence[Tensor], coefficients: Callable[[], list[Any]]) -> BatchStep:
        sparse = mixed_dtypes = False
        if self._is_view:
            grads = [as_engine_gradient(grad, param) for grad, param in zip(grads, self.params, strict=True)]
        gradient_addresses = self.batch.gradient_addresses(grads)
        if gradient_addresses is None:
            traits = program.rule.traits
            by_rows = traits.lazy_sparse or (traits.noop_on_zero_grad and not program.needs_index)
            sparse = by_rows and any(grad.is_sparse for grad in grads)
            mixed_dtypes = any(grad.dtype != self.batch.dtype for grad in grads)
            grads = [
                _aligned(grad, param, program.rule, by_rows=by_rows)
                for param, grad in zip(self.batch.params, grads, strict=True)
            ]
        return BatchStep(self.batch, grads, coefficients(), gradient_addresses, sparse, mixed_dtypes)

    def _coefficients(self, program: Program, seed: int, model_lr: float | None) -> list[Any]:
        """Return the coefficients of the next step of each parameter; equal ones are the same object."""
        if not program.needs_keys:
            count = self._step_counts.shared(self.positions)
            previous = [scalar_array.shared(self.positions) for scalar_array in self._recurrent_scalars]
            if count is not None and None not in previous:
                before: Any = tuple(previous)
                return [program.coefficients(int(count) + 1, previous=before, model_lr=model_lr)] * len(self.params)
        counts = self._step_counts.at(self.positions)
        if program.needs_keys:
            return [
                program.coefficients(int(count) + 1, previous=previous, seed=seed, position=position, model_lr=model_lr)
                for count, previous, position in zip(
                    counts, self._previous_recurrent_scalars(), self.positions, strict=True
                )
            ]
        pairs = list(zip(counts, self._previous_recurrent_scalars(), strict=True))
        by_pair = {
            pair: program.coefficients(int(pair[0]) + 1, previous=pair[1], model_lr=model_lr) for pair in set(pairs)
        }
        return [by_pair[pair] for pair in pairs]

    def _previous_recurrent_scalars(self) -> list[tuple[float, ...]]:
        """Return the recurrent scalars of each parameter after its last step."""
        if not self._recurrent_scalars:
            return [()] * len(self.positions)
        return list(zip(*(scalar_array.at(self.positions) for scalar_array in self._recurrent_scalars), strict=True))

    def items(self, step: BatchStep) -> list[loop.TensorStep]:
        """Return the steps of the single tensors."""
        batch = step.batch
        return [
            loop.TensorStep(self.program, param, grad, batch.state(k), coefficients, shards)
            for k, (param, grad, coefficients, shards) in enumerate(
                zip(batch.params, step.grads, step.coefficients, batch.shards, strict=True)
            )
        ]

    def write_result(self, k: int, param: Tensor, state: Any) -> None:
        """Write the result of a step: in place for parameter `k`, as new entries for its state."""
        self.batch.params[k].copy_(param)
        layout = self.program.layout(self.batch.params[0].shape)
        for name in self.batch.columns:
            tensor = getattr(state, name)
            self.records[k][layout[name].key] = torch.view_as_complex(tensor) if self.params[k].is_complex() else tensor

    def evaluation_points(self, program: Program) -> list[tuple[Tensor, Tensor]]:
        """Return each parameter with the value at which the model is evaluated."""
        scalars = zip(self._step_counts.at(self.positions), self._previous_recurrent_scalars(), strict=True)
        points = []
        for k, (param, (count, previous)) in enumerate(zip(self.batch.params, scalars, strict=True)):
            c = program.coefficients(max(1, int(count)), previous=previous)
            points.append((param, program.evaluation_point(param, self.batch.state(k), c)))
        return points

    def update_curvature(self, program: Program, curvature: Sequence[Tensor]) -> None:
        """Write estimates of the Hessian's diagonal, one for each parameter, to the state."""
        counts = self._step_counts.at(self.positions)
        for k, (estimate, count) in enumerate(zip(curvature, counts, strict=True)):
            c = program.coefficients(int(count) + 1)
            estimate = as_engine_gradient(estimate, self.params[k]).to(precision.compute_dtype(self.dtype))
            new_state = program.rule.update_curvature(self.batch.state(k), estimate, c)
            for column, tensor in zip(self.batch.columns.values(), new_state, strict=True):
                column[k].copy_(tensor)

    def count(self, step: BatchStep) -> None:
        """Count a step that was taken and store its recurrent scalars."""
        self._step_counts.add_one(self.positions)
        if not self._recurrent_scalars:
            return
        c = step.coefficients
        distinct = c[:1] if c.count(c[0]) == len(c) else c  # one value for all
        for name, scalar_array in zip(self.program.rule.traits.recurrent_scalars, self._recurrent_scalars, strict=True):
            scalar_array.put(self.positions, [getattr(coefficients, name) for coefficients in distinct])


def step_in_place(steps: Sequence[tuple[Binding, BatchStep]]) -> None:
    """Take and count steps. Each batch is counted when it is done: an error leaves it as before or as after its step.

    Raises:
        SettingError: If a scalar of the step does not fit into the dtype of the parameters.
    """
    try:
        backends.run(
            [(binding.runner, step) for binding, step in steps],
            after_batch=lambda k: steps[k][0].count(steps[k][1]),
        )
    except RuntimeError as error:
        if "without overflow" not in str(error):  # torch's words for a number that a dtype cannot hold
            raise
        rule = steps[0][0].program.rule
        raise SettingError(
            f"{rule.name}: the settings must give scalars that the dtype of the parameters can hold, got {error}. "
            "Use settings nearer to the defaults."
        ) from error


def step_differentiably(steps: Sequence[tuple[Binding, BatchStep]]) -> None:
    """Take and count steps that autograd records.

    Raises:
        ParameterError: If a parameter is a leaf that requires a gradient: autograd forbids to write to it.
    """
    for binding, _ in steps:
        for param in binding.params:
            if param.is_leaf and param.requires_grad:
                raise ParameterError(
                    f"{binding.program.rule.name}: a parameter of a differentiable step must be the result of an "
                    f"operation, got a leaf of shape {tuple(param.shape)}. Pass param.clone(), and use it in the model."
                )
    slots = [(binding, k) for binding, step in steps for k in range(len(step.coefficients))]
    # Clones, since the backward pass may need the old values of parameters that are written here.
    items = [item._replace(param=item.param.clone()) for binding, step in steps for item in binding.items(step)]
    for (binding, k), (param, state) in zip(slots, loop.update(items), strict=True):
        binding.write_result(k, param, state)
    for binding, step in steps:
        binding.count(step)


def is_engine_view(param: Tensor) -> bool:
    """Return True if the engine runs a view of the parameter: its pairs of real numbers, or its local shard."""
    return param.is_complex() or is_dtensor(param)


def _aligned(grad: Tensor, param: Tensor, rule: Rule, *, by_rows: bool) -> Tensor:
    """Return a gradient with the memory layout of its parameter, or coalesced if it may stay sparse.

    Its dtype may differ, as `param.grad_dtype` allows: sums of bfloat16 gradients in float32 lose less.
    """
    for attribute, actual, expected in (
        *([("dtype", grad.dtype, param.dtype)] if not grad.is_floating_point() else ()),
        ("device", grad.device, param.device),
        ("shape", tuple(grad.shape), tuple(param.shape)),
    ):
        if actual != expected:
            raise ParameterError(
                f"{rule.name}: a gradient must have the {attribute} of its parameter, {expected}, got {actual}. "
                "Was it assigned by hand, or param.data replaced after backward()?"
            )
    if grad.is_sparse:
        if not rule.traits.supports_sparse:
            raise ParameterError(
                f"{rule.name}: gradients must be dense, got a sparse one for a parameter of shape "
                f"{tuple(param.shape)}. Use sparse=False in the embedding, or an optimizer that supports sparse "
                "gradients (SGD, AdaGrad, SparseAdam)."
            )
        if by_rows:
            return grad.clone() if grad.is_coalesced() else grad.coalesce()  # its values may be a parameter's memory
        grad = grad.to_dense()
    return torch.empty_like(param, dtype=grad.dtype).copy_(grad)
