"""Readings: values that wait on their device until a monitor reads them, all at once."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

Column = list[float]  # of a table


@dataclass
class _Row:
    """Values of one monitored step.

    Attributes:
        index: Index of the step among the monitored ones.
        columns: The column of each value.
        vector: The values.
        factors: The factor of each value; None if there are none.
        key: Equal for rows of the same columns and factors on one device.
    """

    index: int
    columns: Sequence[Column]
    vector: Tensor
    factors: Sequence[float] | None
    key: object


@dataclass
class _StepReadings:
    """Scalars of one monitored step, with their columns and factors."""

    columns: list[Column] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    def add(self, column: Column, value: Tensor, factor: float) -> None:
        self.columns.append(column)
        self.values.append(value)
        self.factors.append(factor)


class Readings:
    """Scalars on devices, with the columns that get them. Only ``read`` waits for a device.

    The scalars of a step become one vector when it ends: thousands of small tensors would cost more than what they
    measure.

    Attributes:
        all_finite: True if every value that was read so far is finite.

    Example:
        >>> readings, norms, loss = Readings(), [[], []], []
        >>> for index in range(3):
        ...     readings.add_vector(index, norms, torch.tensor([1.0, 3.0 * index]))
        ...     readings.add(index, loss, torch.tensor(1.0 + index), factor=0.5)
        ...     readings.end_step()
        >>> readings.read(3)
        >>> norms, loss
        ([[1.0, 1.0, 1.0], [0.0, 3.0, 6.0]], [0.5, 1.0, 1.5])
    """

    def __init__(self) -> None:
        self.all_finite = True
        self._open: dict[int, _StepReadings] = {}  # by index
        self._rows: list[_Row] = []

    def add(self, index: int, column: Column, value: Tensor, factor: float = 1.0) -> None:
        """Add a scalar for a column, at the place of an index, times a factor."""
        scalars = self._open.get(index)
        if scalars is None:
            scalars = self._open[index] = _StepReadings()
        scalars.add(column, value, factor)

    def add_vector(
        self, index: int, columns: Sequence[Column], vector: Tensor, factors: Sequence[float] | None = None
    ) -> None:
        """Add a value for each column, at the place of an index, times its factor.

        It is fastest if the columns of all steps are one object.
        """
        self._rows.append(_Row(index, columns, vector, factors, (id(columns), factors and (*factors,), vector.device)))

    def end_step(self) -> None:
        """Put the scalars of each index into one vector for each device."""
        for index, scalars in self._open.items():
            for part in _by_device(scalars):
                key = (*map(id, part.columns), *part.factors, part.values[0].device)
                self._rows.append(_Row(index, part.columns, torch.stack(part.values), part.factors, key))
        self._open = {}

    def read(self, end: int) -> None:
        """Put all values whose index is below an end into their columns. A value that is not finite becomes infinite.

        Not a number stands for a place without a value.
        """
        self.end_step()
        ready = [row for row in self._rows if row.index < end]
        self._rows = [row for row in self._rows if row.index >= end]
        blocks: dict[object, list[_Row]] = {}
        for row in ready:
            blocks.setdefault(row.key, []).append(row)
        numbers = iter(_numbers([row.vector for rows in blocks.values() for row in rows]))
        for rows in blocks.values():
            self._write(rows, [next(numbers) for _ in rows], end)

    def _write(self, rows: list[_Row], vectors: list[Tensor], end: int) -> None:
        """Write the values of rows of the same columns."""
        block = torch.stack(vectors, 1)
        is_finite = block.isfinite()
        if not bool(is_finite.all()):
            self.all_finite = False
            block = torch.where(is_finite, block, math.inf)
        if rows[0].factors is not None:
            block *= torch.tensor(rows[0].factors, dtype=torch.float64, device="cpu").unsqueeze(1)
        indices = [row.index for row in rows]
        gaps = {b - a for a, b in pairwise(indices)}
        gap = gaps.pop() if len(gaps) == 1 else 0
        for column, values in zip(rows[0].columns, block.tolist(), strict=True):
            if len(column) < end:
                column.extend([math.nan] * (end - len(column)))
            if gap > 0:
                column[indices[0] : indices[-1] + 1 : gap] = values
            else:
                for index, value in zip(indices, values, strict=True):
                    column[index] = value

    def clear(self) -> None:
        """Forget what was not read."""
        self._open, self._rows = {}, []


def _by_device(scalars: _StepReadings) -> Iterable[_StepReadings]:
    """Return the scalars of each device."""
    devices = {value.device for value in scalars.values}
    if len(devices) == 1:
        return [scalars]
    parts = {device: _StepReadings() for device in devices}
    for column, value, factor in zip(scalars.columns, scalars.values, scalars.factors, strict=True):
        parts[value.device].add(column, value, factor)
    return parts.values()


def _numbers(vectors: list[Tensor]) -> list[Tensor]:
    """Return vectors in double precision on the CPU, with one transfer for each device."""
    places: dict[torch.device, list[int]] = {}
    for place, vector in enumerate(vectors):
        places.setdefault(vector.device, []).append(place)
    result = list(vectors)
    for own in places.values():
        parts = [vectors[place] for place in own]
        numbers = torch.cat(parts).to("cpu").double()
        for place, part in zip(own, torch.split(numbers, [len(part) for part in parts]), strict=True):
            result[place] = part
    return result
