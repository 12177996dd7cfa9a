"""Passes: a recording, cut where it needs results of reductions, and the loops that each pass runs.

An elementwise program is one pass. A reduction over all elements must be complete before anything that depends on it
is computed, so a program has one more pass for each reduction whose operand needs the result of another. Every pass
computes the values that it needs again, from the tensors as they were before the step: reading memory twice is cheaper
than storing a tensor in between. Only the last pass writes.

Loops run over three axes: a matrix has rows `n` and columns `m`, and a tensor of more dimensions is a batch `b` of
matrices. Dimensions that are always reduced together form one axis. If all dimensions are, the axis is cut into rows of
a fixed length.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from math import prod
from typing import Literal

from thalweg.engine.kernels.recording import (
    Operation,
    RecordedReduction,
    RecordedValue,
    Recording,
    UnknownOperationError,
)
from thalweg.rules.core.reductions import Reduction

ROW = 4096  # elements in a row, where a tensor is one axis: an equal share for two threads, and a long loop
_BLOCK = 64  # rows in a block, where it is not: the unit of work of a thread, with its own sums for the columns

Axes = str  # some of "b", "n" and "m", in this order: the axes along which a value varies
ReductionForm = Literal["few", "rows", "columns", "all"]


@dataclass(frozen=True)
class Passes:
    """A recording, and the pass in which each of its values is computed."""

    recording: Recording

    @cached_property
    def axes(self) -> Axes:
        """The axes of the parameter."""
        return "bnm"[3 - len(self._axis_lengths) :]

    @cached_property
    def _axis_lengths(self) -> list[int]:
        """The number of consecutive dimensions that each axis has."""
        columns = zip(*(value.varies for value in self._values), strict=True)
        lengths = [len(list(equal)) for _, equal in groupby(columns)]
        if len(lengths) > 3:
            raise UnknownOperationError("reductions along more than two dimensions, each by itself")
        return lengths

    @property
    def _values(self) -> list[RecordedValue]:
        return [*self.columns, *(operation.result for operation in self.recording.operations)]

    @property
    def columns(self) -> list[RecordedValue]:
        """The tensors of a parameter in memory: itself, its gradient, its state."""
        return [self.recording.param, self.recording.grad, *self.recording.state.values()]

    def axes_of(self, value: RecordedValue) -> Axes:
        """Return the axes along which a value varies."""
        firsts = [sum(self._axis_lengths[:k]) for k in range(len(self._axis_lengths))]
        axes = "".join(axis for axis, first in zip(self.axes, firsts, strict=True) if value.varies[first])
        if self.axes == "bnm" and axes in ("n", "m", "nm"):
            raise UnknownOperationError("a value that varies along the last dimensions alone")
        return axes

    def is_whole(self, value: RecordedValue) -> bool:
        """Return True if a value has as many elements as the parameter."""
        return self.axes_of(value) == self.axes

    @property
    def rows_in_block(self) -> int:
        """The number of rows that a thread computes at a time."""
        return 1 if self.axes == "m" else _BLOCK

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """Return the batches, rows, columns and elements of a parameter of this shape."""
        count = prod(shape)
        if self.axes == "m":
            return 1, -(-count // ROW), ROW, count
        sides, dim = [1] * (3 - len(self.axes)), 0
        for length in self._axis_lengths:
            sides.append(prod(shape[dim : dim + length]))
            dim += length
        b, n, m = sides
        return b, n, m, count

    # --- reductions ---------------------------------------------------------------------------------------------------

    @cached_property
    def reductions(self) -> list[RecordedReduction]:
        """All reductions, in the order of their requests."""
        return [operation for operation in self.recording.operations if isinstance(operation, RecordedReduction)]

    @cached_property
    def model_reductions(self) -> list[RecordedReduction]:
        """The reductions over the whole model."""
        over_model = [reduction for reduction in self.reductions if reduction.over_model]
        if not all(self.is_whole(reduction.operand) for reduction in over_model):
            raise UnknownOperationError("a reduction over the model of fewer numbers than a tensor has")
        return over_model

    @cached_property
    def first_pass(self) -> dict[int, int]:
        """The first pass that can compute each value, by its place; inputs, which are not listed, have pass 0."""
        numbers: dict[int, int] = {}
        for operation in self.recording.operations:
            args = (operation.operand,) if isinstance(operation, RecordedReduction) else operation.args
            number = max((numbers.get(arg.place, 0) for arg in args if isinstance(arg, RecordedValue)), default=0)
            numbers[operation.result.place] = number + isinstance(operation, RecordedReduction)
        return numbers

    @cached_property
    def last(self) -> int:
        """The number of the pass that writes."""
        return max((self.first_pass[reduction.result.place] for reduction in self.reductions), default=0)

    @cached_property
    def calls(self) -> list[range]:
        """The passes of each call of the kernel; between calls, reductions over the model are combined."""
        ends = sorted({self.pass_of(reduction) for reduction in self.model_reductions} | {self.last})
        return [range(low + 1, high + 1) for low, high in pairwise([-1, *ends])]

    @cached_property
    def shared_reductions(self) -> list[tuple[int, type[Reduction], tuple[str, ...]]]:
        """The number of the call that computes each reduction over the model, its kind, and its part of the model."""
        return [
            (
                next(k for k, call in enumerate(self.calls) if self.pass_of(reduction) in call),
                reduction.kind,
                reduction.part,
            )
            for reduction in self.model_reductions
        ]

    def pass_of(self, reduction: RecordedReduction) -> int:
        """Return the number of the pass that computes a reduction."""
        return self.first_pass[reduction.result.place] - 1

    def reductions_of(self, number: int) -> list[RecordedReduction]:
        """Return the reductions that a pass computes."""
        return [reduction for reduction in self.reductions if self.pass_of(reduction) == number]

    def writes_of(self, number: int) -> list[tuple[int, RecordedValue]]:
        """Return the columns that a pass writes, by number, and their new values."""
        if number != self.last:
            return []
        outputs = zip((0, *range(2, len(self.columns))), self.recording.outputs, strict=True)
        return [(k, value) for k, value in outputs if value.place != self.columns[k].place]

    def whole_results_of(self, number: int) -> tuple[list[RecordedReduction], list[tuple[int, RecordedValue]]]:
        """Return the reductions of whole tensors that a pass computes, and the whole tensors that it writes."""
        reductions = [reduction for reduction in self.reductions_of(number) if self.is_whole(reduction.operand)]
        return reductions, [(k, value) for k, value in self.writes_of(number) if self.is_whole(value)]

    def dependencies(self, targets: Iterable[RecordedValue]) -> tuple[list[Operation], set[int]]:
        """Return the computation of some values.

        Args:
            targets: The values to compute.

        Returns:
            The operations, in order, and the places of all values involved; those without an operation are inputs and
            results of reductions.
        """
        places = {value.place for value in targets}
        operations = []
        for operation in reversed(self.recording.operations):
            if isinstance(operation, Operation) and operation.result.place in places:
                operations.append(operation)
                places |= {arg.place for arg in operation.args if isinstance(arg, RecordedValue)}
        return operations[::-1], places

    def moved_bytes(self) -> tuple[int, int]:
        """Return the bytes that a step reads and writes for each element of a parameter, in all passes together."""
        read = written = 0
        for number in range(self.last + 1):
            reductions, writes = self.whole_results_of(number)
            targets = [*(reduction.operand for reduction in reductions), *(value for _, value in writes)]
            _, places = self.dependencies(targets)
            loaded = [value for value in self.columns if value.place in places and self.is_whole(value)]
            read += sum(value.dtype.itemsize for value in loaded)
            written += sum(value.dtype.itemsize for _, value in writes)
        return read, written

    # --- memory for reductions ----------------------------------------------------------------------------------------

    def numel(self, value: RecordedValue, sizes: Sequence[int]) -> int:
        """Return the number of elements of a value for a parameter of these sizes."""
        if self.is_whole(value):
            return sizes[3]
        return prod(size for axis, size in zip("bnm", sizes, strict=False) if axis in self.axes_of(value))

    def num_results(self, reduction: RecordedReduction, sizes: Sequence[int]) -> int:
        """Return the number of results of a reduction over a parameter of these sizes."""
        return self.numel(reduction.result, sizes)

    def num_partials(self, reduction: RecordedReduction, sizes: Sequence[int]) -> int:
        """Return the number of partial results of all blocks of a parameter: one a block, or one a column of each."""
        b, n, m, _ = sizes
        per_block = {"all": 1, "columns": m}.get(self.form_of(reduction), 0)
        return b * -(-n // self.rows_in_block) * per_block

    def form_of(self, reduction: RecordedReduction) -> ReductionForm:
        """Return the operand of each result: few values, none of them a whole tensor; or a row, a column, or all."""
        if not self.is_whole(reduction.operand):
            return "few"
        axes = self.axes_of(reduction.result)
        return "rows" if "n" in axes else "columns" if "m" in axes else "all"
