"""Readings: values that wait on their device until a monitor reads them, all at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Key:
    """What a value is.

    Attributes:
        table: The table of the record that gets it, or a name that the monitor knows.
        name: The name of its module, parameter or optimizer.
    """

    table: str
    name: str


class Readings:
    """Values on devices, with the index of their step. Only ``read`` waits for a device."""

    def __init__(self) -> None:
        self._waiting: dict[torch.device, list[tuple[int, Sequence[Key], Tensor]]] = {}

    def add(self, index: int, keys: Sequence[Key], values: Tensor | Sequence[Tensor]) -> None:
        """Add a value for each key: the elements of a vector, or scalars. They are on one device."""
        if not keys:
            return
        flat = values if isinstance(values, Tensor) else torch.stack(list(values))
        self._waiting.setdefault(flat.device, []).append((index, keys, flat.reshape(-1)))

    def read(self) -> list[tuple[int, Key, float]]:
        """Return all values in the order of their addition on each device, and forget them."""
        result: list[tuple[int, Key, float]] = []
        for waiting in self._waiting.values():
            values = torch.cat([flat.to(torch.float64) for _, _, flat in waiting]).tolist()
            keys = [(index, key) for index, keys, _ in waiting for key in keys]
            result += [(index, key, value) for (index, key), value in zip(keys, values, strict=True)]
        self._waiting = {}
        return result
