"""Scalar kernel: the compiled scalars of a program, bound to the parameters of a batch on a device, and run."""

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from thalweg.engine.core.program import Program
from thalweg.engine.core.scalar_program import (
    ScalarInputs,
    TensorEvaluator,
    number_settings,
    row_names,
    scalar_program,
)
from thalweg.engine.kernels import library_cache
from thalweg.engine.kernels.cuda import driver
from thalweg.engine.kernels.cuda.call import row_length
from thalweg.engine.kernels.cuda.driver import Device, Launch
from thalweg.engine.kernels.cuda.scalars import WIDTH, call_structure, max_recurrent, scalars_source
from thalweg.engine.kernels.kernel_spec import UnavailableError

_NAME = "scalars"
_NUM_TRIED = 8  # steps that a new kernel is tried for
_TOLERANCE = 1e-12  # of `pow` and its like, whose last bit differs


class ScalarKernel:
    """Computes the coefficients of parameters, and counts their steps, in one launch each.

    Args:
        program: The program of the parameters.
        steps: The step counts of all parameters on the device.
        recurrent: The recurrent scalars of all parameters on the device, by name.
        positions: The index of each parameter in these, as int64 on the device.

    Raises:
        UnavailableError: If there is no kernel for the device.
    """

    def __init__(self, program: Program, steps: Tensor, recurrent: Mapping[str, Tensor], positions: Tensor) -> None:
        device = driver.device_of(steps.device)
        if device is None:
            raise UnavailableError(f"there are no kernels for {steps.device}")
        self._device = device
        self._program, self._num_scalars = program, row_length(len(row_names(program)))
        scalars = scalar_program(program)
        self._function = _function(program, device)
        self._fields = call_structure(max_recurrent([scalars]))()
        self._arguments = (ctypes.c_void_p * 1)(ctypes.addressof(self._fields))
        self._held = steps, dict(recurrent), positions
        fields = self._fields
        fields.count, fields.row_length = len(positions), self._num_scalars
        fields.positions, fields.steps = positions.data_ptr(), steps.data_ptr()
        fields.recurrent[: len(scalars.recurrent)] = [recurrent[name].data_ptr() for name in scalars.recurrent]

    def rows(self, settings: Tensor, keys: Tensor | None, model_lr: Tensor | None) -> Tensor:
        """Return the coefficients of the next step of each parameter; nothing else is written.

        Args:
            settings: The settings of the group, in the order of `number_settings`, in float64.
            keys: The key of the random numbers of each parameter, as int64; None if none are drawn.
            model_lr: The highest learning rate of all groups, in float64, for rules that need it.
        """
        rows = torch.empty((self._fields.count, self._num_scalars), dtype=torch.float64, device=settings.device)
        fields = self._fields
        fields.settings, fields.rows = settings.data_ptr(), rows.data_ptr()
        fields.keys = 0 if keys is None else keys.data_ptr()
        fields.model_lr = 0 if model_lr is None else model_lr.data_ptr()
        self._launch(0, None)
        return rows

    def count(self, rows: Tensor, skip: Tensor | None) -> None:
        """Count a step with these coefficients, and store its recurrent scalars, unless the device skips it."""
        self._fields.rows = rows.data_ptr()
        self._launch(1, skip)

    def _launch(self, counting: int, skip: Tensor | None) -> None:
        fields = self._fields
        fields.counting, fields.skip = counting, 0 if skip is None else skip.data_ptr()
        launch = Launch(self._function, -(-fields.count // WIDTH), self._arguments)
        self._device.launch([launch], WIDTH, self._device.stream())


def create(program: Program, steps: Tensor, recurrent: Mapping[str, Tensor], positions: Tensor) -> ScalarKernel | None:
    """Return the kernel of a program that was tried against tensor operations; None if there is none that is right.

    This may compile the kernel, and waits for the device.
    """
    try:
        tried = torch.arange(_NUM_TRIED, dtype=torch.float64, device=steps.device)
        initial = {name: torch.full_like(tried, value) for name, value in program.rule.traits.recurrent_scalars.items()}
        candidate = ScalarKernel(program, tried, initial, torch.arange(_NUM_TRIED, device=steps.device))
        if not _agrees(candidate, program, tried, initial):
            return None
        return ScalarKernel(program, steps, recurrent, positions)
    except UnavailableError:
        return None


def _agrees(kernel: ScalarKernel, program: Program, steps: Tensor, recurrent: Mapping[str, Tensor]) -> bool:
    """Return True if a kernel gives the numbers of tensor operations."""
    names = number_settings(program.rule)
    numbers = [float(program.rule.settings()[name]) for name in names]
    settings = torch.tensor(numbers, dtype=torch.float64, device=steps.device)
    model_lr = torch.ones((), dtype=torch.float64, device=steps.device)
    scalars = scalar_program(program)
    inputs = ScalarInputs(steps + 1, dict(zip(names, settings.unbind(), strict=True)), recurrent, model_lr)
    expected = TensorEvaluator(scalars.coefficients, steps.device)(inputs.by_name())
    keys = torch.zeros(len(steps), dtype=torch.int64, device=steps.device) if program.needs_keys else None
    rows = kernel.rows(settings, keys, model_lr)
    return all(
        torch.allclose(rows[:, k], value.expand(len(steps)), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
        for k, value in enumerate(expected.values())
    )


_FUNCTIONS: dict[tuple[int, str], object] = {}


def _function(program: Program, device: Device) -> object:
    """Return the kernel of a program on a device: of this process, of an earlier one, or newly compiled."""
    source = scalars_source([(_NAME, scalar_program(program), program.needs_keys)])
    key = id(device), source
    if key not in _FUNCTIONS:
        name = device.image_name(source)
        image = library_cache.read(name)
        if image is None:
            image = device.compile(source)
            library_cache.keep(name, image)
        _FUNCTIONS[key] = device.load(image).function(_NAME)
    return _FUNCTIONS[key]
