"""Binding of captured steps: scalars are computed on the device from settings, step counts and recurrent scalars."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core import precision
from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.program import Program
from thalweg.engine.kernels.cuda import scalars as scalar_kernels
from thalweg.engine.scalars.program import ScalarInputs, TensorEvaluator, row_names, scalar_program
from thalweg.errors import ParameterError
from thalweg.optim.parameters.binding import Binding
from thalweg.optim.state.scalar_state import ScalarArray
from thalweg.rules import record
from thalweg.rules.math import hashing

MissedScalars = Callable[[dict[str, Tensor], Tensor | None], None]


class DeviceScalars:
    """The scalars of a binding's parameters on one device.

    Args:
        program: The program of the parameters.
        positions: Their positions in the optimizer.
        device: Their device.
        steps: The step counts of all parameters.
        recurrent: The recurrent scalars of all parameters, by name.
    """

    def __init__(
        self,
        program: Program,
        positions: Sequence[int],
        device: torch.device,
        steps: ScalarArray,
        recurrent: dict[str, ScalarArray],
    ) -> None:
        self._scalars = scalar_program(program)
        self._names = row_names(program)
        self._positions, self._device = list(positions), device
        self._index = torch.tensor(self._positions, dtype=torch.int64, device=device)
        self._steps = steps.vector(device)
        self._recurrent = {name: recurrent[name].vector(device) for name in self._scalars.recurrent}
        self._kernel = scalar_kernels.create(program, self._steps, self._recurrent, self._index)
        self._evaluate = TensorEvaluator(self._scalars.coefficients, device)
        self._keys: dict[int, Tensor] = {}
        self._needs_keys = program.needs_keys

    def prepare_keys(self, seed: int) -> None:
        """Create the keys of random numbers, which come from the host."""
        if self._needs_keys and seed not in self._keys:
            keys = [hashing.signed(hashing.parameter_key(seed, position)) for position in self._positions]
            self._keys = {seed: torch.tensor(keys, dtype=torch.int64, device=self._device)}

    def next_steps(self) -> Tensor:
        """Return the number of the next step of each parameter."""
        return self._steps[self._index] + 1

    def rows(self, settings: dict[str, Tensor], vector: Tensor, seed: int, model_lr: Tensor | None) -> Tensor:
        """Return the coefficients of the next step, of shape ``(parameters, coefficients)``; nothing is written."""
        if self._kernel is not None:
            self.prepare_keys(seed)
            return self._kernel.rows(vector, self._keys.get(seed), model_lr)
        steps = self.next_steps()
        recurrent = {name: vector[self._index] for name, vector in self._recurrent.items()}
        values = self._evaluate(ScalarInputs(steps, settings, recurrent, model_lr).by_name())
        if self._needs_keys:
            self.prepare_keys(seed)
            values |= hashing.step_key_tensors(self._keys[seed], steps)
        columns = [values[name].to(torch.float64).expand(len(self._positions)) for name in self._names]
        return torch.stack(columns, dim=1) if columns else steps.new_empty((len(self._positions), 0))

    def records(self, rows: Tensor, dtype: torch.dtype) -> list[Any]:
        """Return rows as records of numbers of a dtype, as an eager backend takes them."""
        return [
            record(**dict(zip(self._names, row.unbind(), strict=True)))
            for row in rows.to(precision.compute_dtype(dtype)).unbind()
        ]

    def count(self, rows: Tensor, skip: Tensor | None) -> None:
        """Count a step with these coefficients, and store its recurrent scalars; if it is skipped, do neither."""
        if self._kernel is not None:
            self._kernel.count(rows, skip)
            return
        written = {name: rows[:, self._names.index(name)] for name in self._recurrent}
        for name, vector in [("", self._steps), *self._recurrent.items()]:
            old = vector[self._index]
            new = old + 1 if name == "" else written[name]
            vector.index_copy_(0, self._index, new if skip is None else torch.where(skip != 0, old, new))


class DeviceBinding(Binding):
    """Parameters whose scalars are on their device, bound to their entries in the state."""

    captured = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        names = self.program.rule.traits.recurrent_scalars
        recurrent = dict(zip(names, self._recurrent_scalars, strict=True))
        self.scalars = DeviceScalars(self.program, self.positions, self.batch.device, self._step_counts, recurrent)

    def device_step(
        self,
        program: Program,
        grads: Sequence[Tensor],
        settings: dict[str, Tensor],
        vector: Tensor,
        seed: int,
        model_lr: Tensor | None,
        skip: Tensor | None,
        grad_factor: Tensor | None,
    ) -> BatchStep:
        """Return the step with these gradients. Nothing is written, and nothing is read from the device.

        Args:
            program: A program whose code is that of the bound one.
            grads: A gradient for each parameter.
            settings: The settings of the group on the device, by name.
            vector: Their memory.
            seed: The seed of random numbers.
            model_lr: The highest learning rate of all groups, for rules that depend on it.
            skip: A number on the device; if it is not 0, the step does nothing and does not count.
            grad_factor: A number on the device by which gradients are multiplied.
        """
        if any(grad.is_sparse for grad in grads):
            raise ParameterError(
                f"{program.rule.name}: gradients must be dense if capturable=True, since the rows of sparse ones are "
                "known only when the device is waited for, got a sparse one. Use sparse=False in the embedding."
            )
        rows: Tensor | None = None

        def coefficients() -> list[Any]:
            nonlocal rows
            rows = self.scalars.rows(settings, vector, seed, model_lr)
            return self.scalars.records(rows, self.batch.dtype)

        step = self._step(program, grads, coefficients)
        return step._replace(rows=rows, skip=skip, grad_factor=grad_factor)

    def count(self, step: BatchStep) -> None:
        """Count a step that was taken and store its recurrent scalars, unless the device skips it."""
        assert step.rows is not None, "a captured step has rows"
        self.scalars.count(step.rows, step.skip)


def missed_scalars(
    program: Program, arrays: dict[str, ScalarArray], position: int, device: torch.device
) -> MissedScalars:
    """Return a function that writes the recurrent scalars of a parameter without a gradient, unless skipped."""
    expressions = scalar_program(program).missed
    evaluate = TensorEvaluator(expressions, device)

    def write(settings: dict[str, Tensor], skip: Tensor | None) -> None:
        entries = {name: array.vector(device)[position] for name, array in arrays.items()}
        step = torch.zeros((), dtype=torch.float64, device=device)
        for name, value in evaluate(ScalarInputs(step, settings, entries).by_name()).items():
            entries[name].copy_(value if skip is None else torch.where(skip != 0, entries[name], value))

    return write
