"""Readings: values that wait on their device until a monitor reads them, all at once."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Column = list[float]  # of a table, or the values of losses by call


class Readings:
    """Scalars on devices, with the columns that get them. Only ``read`` waits for a device.

    Attributes:
        all_finite: True if every value that was read so far is finite.
    """

    def __init__(self) -> None:
        self.all_finite = True
        self._waiting: list[tuple[int, Sequence[Column], Sequence[Tensor], float]] = []

    def add(self, index: int, columns: Sequence[Column], values: Sequence[Tensor], factor: float = 1.0) -> None:
        """Add a scalar for each column, at the place of an index, times a factor."""
        self._waiting.append((index, columns, values, factor))

    def read(self, end: int) -> None:
        """Put all values whose index is below an end into their columns. A value that is not finite becomes infinite.

        Not a number stands for a place without a value.
        """
        ready = [entry for entry in self._waiting if entry[0] < end]
        self._waiting = [entry for entry in self._waiting if entry[0] >= end]
        numbers = _numbers([value for entry in ready for value in entry[2]])
        if not all(map(math.isfinite, numbers)):
            self.all_finite = False
            numbers = [number if math.isfinite(number) else math.inf for number in numbers]
        place = 0
        for index, columns, values, factor in ready:
            for column, number in zip(columns, numbers[place : place + len(values)], strict=True):
                if len(column) != index:
                    column[index:] = [math.nan] * (index - len(column))
                column.append(number * factor)
            place += len(values)

    def clear(self) -> None:
        """Forget what was not read."""
        self._waiting = []


def _numbers(values: list[Tensor]) -> list[float]:
    """Return the values of scalars, with one transfer for each device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, value in enumerate(values):
        groups.setdefault((value.device, value.dtype), []).append(place)
    result = [0.0] * len(values)
    for places in groups.values():
        numbers = torch.stack([values[place] for place in places]).tolist()
        for place, number in zip(places, numbers, strict=True):
            result[place] = number
    return result
