"""Scalars: the numbers that an optimizer keeps of each parameter, beside tensors."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class ScalarArray:
    """A number for each parameter of an optimizer: one vector, whose elements are the entries of a name in its state.

    torch keeps a tensor for each parameter; to read and write these would cost as much as the step of a small model.
    """

    def __init__(self, num_params: int, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._numbers = array("f" if dtype == torch.float32 else "d", bytes(dtype.itemsize * num_params))
        self._all = range(num_params)
        self._entries = self._views()

    def adopt(self, record: dict[str, Any], name: str, position: int, first: float) -> None:
        """Go on from the number in a record, or the first one; from then on the record shows ours."""
        entry, saved = self._entries[position], record.get(name)
        lies_at = self._numbers.buffer_info()[0] + position * self._dtype.itemsize
        if saved is not entry or entry.data_ptr() != lies_at:
            number = float(first if saved is None else saved)
            if entry.data_ptr() != lies_at:  # moved: into shared memory, say, or by `entry.data = ...`
                entry = self._entries[position] = self._views()[position]
            entry.fill_(number)
            record[name] = entry

    def _views(self) -> list[Tensor]:
        """PyTorch's views of the numbers: Python reads and writes them faster."""
        return list(torch.frombuffer(self._numbers, dtype=self._dtype).unbind()) if self._numbers else []

    def at(self, positions: Sequence[int]) -> list[float]:
        """The numbers of the parameters at these positions."""
        return self._numbers.tolist() if positions == self._all else [self._numbers[k] for k in positions]

    def shared(self, positions: Sequence[int]) -> float | None:
        """The number of all parameters at these positions, if it is one; None otherwise, or if they are not all."""
        if positions != self._all:
            return None
        numbers = memoryview(self._numbers).cast("B")
        return self._numbers[0] if numbers[self._numbers.itemsize :] == numbers[: -self._numbers.itemsize] else None

    def put(self, positions: Sequence[int], numbers: Iterable[float]) -> None:
        """Write the numbers of the parameters at these positions."""
        for position, number in zip(positions, numbers, strict=True):
            self._numbers[position] = number

    def add_one(self, positions: Sequence[int]) -> None:
        """Count the parameters at these positions up."""
        number = self.shared(positions)
        if number is not None:  # over the old ones, in place: one operation, whatever their number
            self._numbers[:] = array(self._numbers.typecode, [number + 1]) * len(self._numbers)
            return
        for position in positions:
            self._numbers[position] += 1


class ScalarState:
    """What an optimizer keeps of each parameter besides tensors: its steps, and what its rule carries on."""

    def __init__(self, num_params: int) -> None:
        self._num_params = num_params
        self.steps = ScalarArray(num_params, torch.float32)
        self._carried: dict[str, ScalarArray] = {}

    def recurrent_scalars(self, name: str) -> ScalarArray:
        """The numbers that are carried on under this name."""
        return self._carried.setdefault(name, ScalarArray(self._num_params, torch.float64))
