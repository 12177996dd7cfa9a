"""Readings: values that wait on their device until a monitor reads them, all at once."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Column = list[float]  # of a table, or the values of losses by call


class Readings:
    """Scalars on devices, with the columns that get them. Only ``read`` waits for a device."""

    def __init__(self) -> None:
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
        numbers = iter(_numbers([value for entry in ready for value in entry[2]]))
        for index, columns, _, factor in ready:
            for column in columns:
                number = next(numbers) * factor
                if not math.isfinite(number):
                    number = math.inf
                if len(column) == index:
                    column.append(number)
                else:
                    column.extend([math.nan] * (index + 1 - len(column)))
                    column[index] = number

    def clear(self) -> None:
        """Forget what was not read."""
        self._waiting = []


def _numbers(values: list[Tensor]) -> list[float]:
    """Return the values of scalars, with one transfer for each device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, value in enumerate(values):
        groups.setdefault((value.device, value.dtype), []).append(place)
    if len(groups) == 1:
        return [float(number) for number in torch.stack(values).tolist()]
    result = [0.0] * len(values)
    for places in groups.values():
        numbers = torch.stack([values[place] for place in places]).tolist()
        for place, number in zip(places, numbers, strict=True):
            result[place] = float(number)
    return result
