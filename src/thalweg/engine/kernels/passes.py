"""Passes: a recording, cut where answers to reductions are needed, and the loops that each pass runs.

An elementwise program is one pass. A reduction over all elements must be complete before anything that depends on it
can be computed, so such a program has a pass more for each answer that needs another one first. Every pass computes
anew what it needs of the values before it, from what was there before the step: reading memory twice is cheaper than
keeping a tensor in between. Only the last pass writes.

Loops run over three axes: a matrix has rows `n` and columns `m`, and a tensor of more dimensions batches `b` of
matrices. Dimensions that are always reduced together are one axis; where all of them are, the axis is cut into rows
of a fixed length.
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
_BLOCK = 64  # rows in a block, where it is not: what one thread does at a time, with sums of its own for the columns

Axes = str  # of "b", "n" and "m", those along which a value varies


@dataclass(frozen=True)
class Passes:
    """A recording, and in which pass each value is known."""

    recording: Recording

    @cached_property
    def axes(self) -> Axes:
        """The axes that the parameter has."""
        return "bnm"[3 - len(self._lengths) :]

    @cached_property
    def _lengths(self) -> list[int]:
        """How many dimensions, one after the other, each axis has."""
        columns = zip(*(value.varies for value in self._values), strict=True)
        lengths = [len(list(alike)) for _, alike in groupby(columns)]
        if len(lengths) > 3:
            raise UnknownOperationError("reductions along more than two dimensions, each by itself")
        return lengths

    @property
    def _values(self) -> list[RecordedValue]:
        return [*self.columns, *(one.result for one in self.recording.operations)]

    @property
    def columns(self) -> list[RecordedValue]:
        """What lies in memory for a parameter: itself, its gradient, its state."""
        return [self.recording.param, self.recording.grad, *self.recording.state.values()]

    def along(self, value: RecordedValue) -> Axes:
        """The axes along which a value varies."""
        firsts = [sum(self._lengths[:k]) for k in range(len(self._lengths))]
        found = "".join(axis for axis, first in zip(self.axes, firsts, strict=True) if value.varies[first])
        if self.axes == "bnm" and found in ("n", "m", "nm"):
            raise UnknownOperationError("a value that varies along the last dimensions alone")
        return found

    def is_whole(self, value: RecordedValue) -> bool:
        """Whether a value has as many elements as the parameter."""
        return self.along(value) == self.axes

    @property
    def rows_in_block(self) -> int:
        """How many rows one thread takes at a time."""
        return 1 if self.axes == "m" else _BLOCK

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """The batches, rows and columns of a parameter, and its elements."""
        count = prod(shape)
        if self.axes == "m":
            return 1, -(-count // ROW), ROW, count
        sides, dim = [1] * (3 - len(self.axes)), 0
        for length in self._lengths:
            sides.append(prod(shape[dim : dim + length]))
            dim += length
        b, n, m = sides
        return b, n, m, count

    # --- answers ------------------------------------------------------------------------------------------------------

    @cached_property
    def answers(self) -> list[RecordedReduction]:
        """All reductions, in the order in which they are asked for."""
        return [one for one in self.recording.operations if isinstance(one, RecordedReduction)]

    @cached_property
    def over_model(self) -> list[RecordedReduction]:
        """Those over the whole model."""
        found = [one for one in self.answers if one.over_model]
        if not all(self.is_whole(one.of) for one in found):
            raise UnknownOperationError("a reduction over the model of fewer numbers than a tensor has")
        return found

    @cached_property
    def known(self) -> dict[int, int]:
        """In which pass each computed value, by its place, can be computed; inputs can from the first."""
        found: dict[int, int] = {}
        for one in self.recording.operations:
            args = (one.of,) if isinstance(one, RecordedReduction) else one.args
            first = max((found.get(arg.place, 0) for arg in args if isinstance(arg, RecordedValue)), default=0)
            found[one.result.place] = first + isinstance(one, RecordedReduction)
        return found

    @cached_property
    def last(self) -> int:
        """The number of the pass that writes."""
        return max((self.known[one.result.place] for one in self.answers), default=0)

    @cached_property
    def calls(self) -> list[range]:
        """The passes to run in one go; between them the answers over the model are put together."""
        ends = sorted({self.asked_in(one) for one in self.over_model} | {self.last})
        return [range(low + 1, high + 1) for low, high in pairwise([-1, *ends])]

    @cached_property
    def shared(self) -> list[tuple[int, type[Reduction]]]:
        """What is asked over the model: in which of the calls, and what."""
        each = (
            (next(k for k, call in enumerate(self.calls) if self.asked_in(one) in call), one) for one in self.over_model
        )
        return [(k, one.kind) for k, one in each]

    def asked_in(self, answer: RecordedReduction) -> int:
        """The number of the pass that makes an answer."""
        return self.known[answer.result.place] - 1

    def asked(self, number: int) -> list[RecordedReduction]:
        """The reductions whose answers a pass makes."""
        return [one for one in self.answers if self.asked_in(one) == number]

    def written(self, number: int) -> list[tuple[int, RecordedValue]]:
        """What a pass writes: numbers of columns, and their new values."""
        if number != self.last:
            return []
        made = zip((0, *range(2, len(self.columns))), self.recording.outputs, strict=True)
        return [(k, value) for k, value in made if value.place != self.columns[k].place]

    def of_whole(self, number: int) -> tuple[list[RecordedReduction], list[tuple[int, RecordedValue]]]:
        """What a pass makes of whole tensors: the answers that it asks, and what it writes."""
        asked = [one for one in self.asked(number) if self.is_whole(one.of)]
        return asked, [(k, value) for k, value in self.written(number) if self.is_whole(value)]

    def needed(self, targets: Iterable[RecordedValue]) -> tuple[list[Operation], set[int]]:
        """The operations that lead to these values, and the places of the inputs and answers that these begin from."""
        wanted = {value.place for value in targets}
        leading = []
        for one in reversed(self.recording.operations):
            if isinstance(one, Operation) and one.result.place in wanted:
                leading.append(one)
                wanted |= {arg.place for arg in one.args if isinstance(arg, RecordedValue)}
        return leading[::-1], wanted

    def moved_bytes(self) -> tuple[int, int]:
        """How many bytes a step reads, and writes, for each element of a parameter, all passes together."""
        read = written = 0
        for number in range(self.last + 1):
            answers, made = self.of_whole(number)
            _, wanted = self.needed([*(one.of for one in answers), *(value for _, value in made)])
            read += sum(one.dtype.itemsize for one in self.columns if one.place in wanted and self.is_whole(one))
            written += sum(value.dtype.itemsize for _, value in made)
        return read, written

    # --- room for answers ---------------------------------------------------------------------------------------------

    def numel(self, value: RecordedValue, sizes: Sequence[int]) -> int:
        """How many elements a value has for a parameter of these sizes."""
        if self.is_whole(value):
            return sizes[3]
        return prod(size for axis, size in zip("bnm", sizes, strict=False) if axis in self.along(value))

    def num_results(self, answer: RecordedReduction, sizes: Sequence[int]) -> int:
        """How many numbers the answer to a reduction over a parameter of these sizes has."""
        return self.numel(answer.result, sizes)

    def num_partial(self, answer: RecordedReduction, sizes: Sequence[int]) -> int:
        """How many numbers the blocks of a parameter make for that: one each, or one for each column."""
        b, n, m, _ = sizes
        each = {"all": 1, "columns": m}.get(self.made_of(answer), 0)
        return b * -(-n // self.rows_in_block) * each

    def made_of(self, answer: RecordedReduction) -> Literal["few", "rows", "columns", "all"]:
        """What each number of an answer is made of: values that are few from the start, or a row, a column, or all."""
        if not self.is_whole(answer.of):
            return "few"
        left = self.along(answer.result)
        return "rows" if "n" in left else "columns" if "m" in left else "all"
