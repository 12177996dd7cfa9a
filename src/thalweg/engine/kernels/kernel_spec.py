"""Kernel spec: the program that a kernel is compiled for. It depends on no compiler and no device."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from numbers import Real
from typing import Any

import torch

from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.program import Program
from thalweg.engine.kernels.passes import Passes
from thalweg.engine.kernels.recording import Recording, UnknownOperationError, record
from thalweg.errors import SettingError
from thalweg.rules import Max


class UnavailableError(Exception):
    """A program or a batch has no kernel, and will have none."""


class MissingToolError(UnavailableError):
    """No kernel at all can be made or run: a compiler is missing, or a driver is too old. It is logged once."""


class KernelSpec:
    """A program, the dtype of its parameters and, if the code depends on it, the number of their dimensions.

    One kernel serves all numbers of the settings. Those of the first batch, at which scalars may overflow, must not
    decide what becomes of it, so the program is recorded and tried at the defaults.

    Args:
        batch: A batch that the kernel is to run.
    """

    def __init__(self, batch: ParameterBatch) -> None:
        self.program, self.dtype = _at_default_numbers(batch.program), batch.dtype
        self._requested = batch.program
        self.elementwise = batch.program.rule.traits.scope == "elementwise"
        self.num_dims = 1 if self.elementwise else max(1, batch.params[0].dim())

    @cached_property
    def passes(self) -> Passes:
        """The passes of the program."""
        with torch.inference_mode(False):
            return Passes(record(self.program, self.dtype, self.num_dims))

    def print_source(self, printer: Callable[[Passes], str]) -> str:
        """Print the passes as source, and verify that the source is the same at other numbers and sizes.

        Args:
            printer: Prints passes in the language of a compiler.

        Raises:
            UnknownOperationError: If the printer does not know an operation, or if the source depends on numbers that
                must reach a step as coefficients.
        """
        source = printer(self.passes)
        with torch.inference_mode(False):
            variants = [self._record_at_other_numbers(), record(self.program, self.dtype, self.num_dims, larger=1)]
        if any(printer(Passes(variant)) != source for variant in variants):
            raise UnknownOperationError("a number that the rule reads from its settings instead of its coefficients")
        return source

    def _record_at_other_numbers(self) -> Recording:
        """Record the program near the numbers of the batch; near the defaults if the batch's scalars overflow."""
        try:
            return record(_at_nearby_numbers(self._requested), self.dtype, self.num_dims)
        except SettingError:
            return record(_at_nearby_numbers(self.program), self.dtype, self.num_dims)


def _at_default_numbers(program: Program) -> Program:
    """Return the program with every number of its rule at the default, or at another if that alters the code."""
    for name, declared in program.rule.hypers().items():
        if declared.is_static:
            continue
        for candidate in (declared.default, 1e-3):
            changed = _with_setting(program, name, candidate)
            if changed is not program:
                program = changed
                break
    return program


def _at_nearby_numbers(program: Program) -> Program:
    """Return the program with every number of its rule a little smaller or larger, and the same code."""
    for name, value in program.rule.settings().items():
        declared = program.rule.hypers()[name]
        if declared.is_static or not isinstance(value, Real):
            continue
        for candidate in (0.999 * float(value), 1.001 * float(value)) if value else (1e-3,):
            if declared.bound is None or candidate in declared.bound:
                program = _with_setting(program, name, candidate)
                break
    return program


def _with_setting(program: Program, name: str, value: Any) -> Program:
    """Return the program at another number; unchanged if that alters its code, as 0 may, or is not allowed."""
    try:
        changed = replace(program, rule=program.rule.with_(**{name: value}))
    except SettingError:
        return program
    return changed if _code_and_state(changed) == _code_and_state(program) else program


def _code_and_state(program: Program) -> tuple[object, list[str]]:
    return program.rule.code_key, list(program.layout(torch.Size([2, 3])))


def check_batch(passes: Passes, batch: ParameterBatch) -> None:
    """Raise UnavailableError unless the tensors of a batch have the layout that the passes were recorded for."""
    recorded = passes.recording.state
    for param in batch.params:
        if passes.axes != "m" and not param.is_contiguous():
            raise UnavailableError("sums along dimensions need contiguous parameters")
        if not param.numel() and any(reduction.kind is Max for reduction in passes.reductions):
            raise UnavailableError("a parameter without elements has no largest element")
        layout, sizes = batch.program.layout(param.shape), passes.sizes(param.shape or (1,))
        if list(layout) != list(recorded) or any(
            layout[name].shape(param.shape).numel() != passes.numel(value, sizes) for name, value in recorded.items()
        ):
            raise UnavailableError("the shapes of the state depend on the sizes of the parameter")
    for name, column in batch.columns.items():
        if any(entry.dtype != recorded[name].dtype for entry in column):
            raise UnavailableError(f"the state tensor {name} has another dtype than the rule declares")
