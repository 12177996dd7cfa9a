"""Scalar state: the numbers that an optimizer keeps for each parameter beside tensors."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class ScalarArray:
    """One number for each parameter of an optimizer, in one array. The entries of the state are views of its elements.

    torch keeps one tensor for each parameter. To read and write these would cost as much as the step of a small model.
    An entry in shared memory stays where it is, since other processes read and write it; then it is the number.

    Args:
        num_params: The number of parameters of the optimizer.
        dtype: The dtype of the entries in the state: float32 or float64.
    """

    def __init__(self, num_params: int, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._values = array("f" if dtype == torch.float32 else "d", bytes(dtype.itemsize * num_params))
        self._all_positions = range(num_params)
        self._entries = self._views()
        self._in_shared_memory: dict[int, Tensor] = {}  # by position

    def adopt(self, record: dict[str, Any], name: str, position: int, initial: float) -> None:
        """Take over the number in a record, or the initial one. From then on the record holds the view of ours."""
        entry, saved = self._entries[position], record.get(name)
        address = self._values.buffer_info()[0] + position * self._dtype.itemsize
        if saved is entry and entry.data_ptr() == address:
            return
        if isinstance(saved, Tensor) and saved.device.type == "cpu" and saved.is_shared():  # type: ignore[no-untyped-call]
            self._in_shared_memory[position] = saved
            return
        self._in_shared_memory.pop(position, None)
        value = float(initial if saved is None else saved)
        if entry.data_ptr() != address:  # the view was moved: into shared memory, or by `entry.data = ...`
            entry = self._entries[position] = self._views()[position]
        entry.fill_(value)
        record[name] = entry

    def _views(self) -> list[Tensor]:
        """Return a tensor for each number. Python itself reads and writes the array, which is faster."""
        return list(torch.frombuffer(self._values, dtype=self._dtype).unbind()) if self._values else []

    def at(self, positions: Sequence[int]) -> list[float]:
        """Return the numbers of the parameters at these positions."""
        if self._in_shared_memory:
            return [float(self._in_shared_memory.get(position, self._values[position])) for position in positions]
        return self._values.tolist() if positions == self._all_positions else [self._values[k] for k in positions]

    def shared(self, positions: Sequence[int]) -> float | None:
        """Return the number that all parameters share, or None if they differ or if these positions are not all."""
        if positions != self._all_positions or self._in_shared_memory:
            return None
        memory = memoryview(self._values).cast("B")
        return self._values[0] if memory[self._values.itemsize :] == memory[: -self._values.itemsize] else None

    def put(self, positions: Sequence[int], values: Iterable[float]) -> None:
        """Write the numbers of the parameters at these positions."""
        for position, value in zip(positions, values, strict=True):
            if position in self._in_shared_memory:
                self._in_shared_memory[position].fill_(value)
            else:
                self._values[position] = value

    def add_one(self, positions: Sequence[int]) -> None:
        """Add one to the numbers of the parameters at these positions."""
        value = self.shared(positions)
        if value is not None:  # one operation in place, however many parameters there are
            self._values[:] = array(self._values.typecode, [value + 1]) * len(self._values)
            return
        for position in positions:
            if position in self._in_shared_memory:
                self._in_shared_memory[position].add_(1)
            else:
                self._values[position] += 1


class ScalarState:
    """The scalars of all parameters of an optimizer: their step counts and the recurrent scalars of the rule.

    Args:
        num_params: The number of parameters of the optimizer.

    Attributes:
        steps: The number of steps of each parameter.
    """

    def __init__(self, num_params: int) -> None:
        self._num_params = num_params
        self.steps = ScalarArray(num_params, torch.float32)
        self._recurrent_scalars: dict[str, ScalarArray] = {}

    def recurrent_scalars(self, name: str) -> ScalarArray:
        """Return the recurrent scalars of this name."""
        return self._recurrent_scalars.setdefault(name, ScalarArray(self._num_params, torch.float64))
