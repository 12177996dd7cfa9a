"""Scalar state: the numbers that an optimizer keeps for each parameter beside tensors."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.plain_tensors import address, fake_mode_is_active

# torch counts steps in float32, where 2**24 + 1 is 2**24. Schedules and keys of random bits would stop there. torch
# loads a count in float64 and continues it.
_DTYPE = torch.float64


def _number(saved: Any, initial: float) -> float:
    """Return a saved number, or the initial one if there is none: nothing was saved, or a tensor without numbers."""
    if saved is None:
        return initial
    try:
        return float(saved)
    except RuntimeError:
        if isinstance(saved, Tensor) and saved.numel() == 1 and not address(saved):
            return initial
        raise


def _is_shared(saved: Tensor) -> bool:
    """Return True if a saved number lies in memory that several processes share."""
    return saved.device.type == "cpu" and saved.is_shared()  # type: ignore[no-untyped-call]


class ScalarArray:
    """One number for each parameter of an optimizer, in one array. The entries of the state are views of its elements.

    torch keeps one tensor for each parameter. To read and write these would cost as much as the step of a small model.
    An entry in shared memory stays where it is, since other processes read and write it; then it is the number.

    Args:
        num_params: The number of parameters of the optimizer.
    """

    def __init__(self, num_params: int) -> None:
        self._values = array("d", bytes(_DTYPE.itemsize * num_params))
        self._all_positions = range(num_params)
        self._entries_are_fake = fake_mode_is_active()  # a fake tensor cannot be a view of real memory
        self._entries = self._views()
        self._in_shared_memory: dict[int, Tensor] = {}  # by position

    def adopt(self, record: dict[str, Any], name: str, position: int, initial: float) -> None:
        """Take over the number in a record, or the initial one. From then on the record holds the view of ours."""
        entry, saved = self._entries[position], record.get(name)
        is_view = self._entries_are_fake or entry.data_ptr() == self._address(position)
        if saved is entry and is_view:
            return
        if isinstance(saved, Tensor) and _is_shared(saved):
            self._in_shared_memory[position] = saved
            return
        self._in_shared_memory.pop(position, None)
        value = _number(saved, initial)
        if not is_view:  # the view was moved: into shared memory, or by `entry.data = ...`
            entry = self._entries[position] = self._views()[position]
        self._values[position] = value
        self._copy_to_fake_entries([position])
        record[name] = entry

    def _address(self, position: int) -> int:
        return self._values.buffer_info()[0] + position * _DTYPE.itemsize

    def _views(self) -> list[Tensor]:
        """Return a tensor for each number. Python itself reads and writes the array, which is faster."""
        if self._entries_are_fake:
            return [torch.tensor(value, dtype=_DTYPE) for value in self._values]
        return list(torch.frombuffer(self._values, dtype=_DTYPE).unbind()) if self._values else []

    def _copy_to_fake_entries(self, positions: Iterable[int]) -> None:
        if self._entries_are_fake:
            for position in positions:
                self._entries[position].fill_(self._values[position])

    def vector(self, device: torch.device) -> Tensor:
        """Return the memory of the numbers on a device, by position, if they are on devices."""
        raise NotImplementedError("the numbers are on the host")

    def at(self, positions: Sequence[int]) -> list[float]:
        """Return the numbers of the parameters at these positions."""
        if self._in_shared_memory:
            return [float(self._in_shared_memory.get(position, self._values[position])) for position in positions]
        return self._values.tolist() if positions == self._all_positions else [self._values[k] for k in positions]

    def shared(self, positions: Sequence[int]) -> float | None:
        """Return the number that all parameters of the optimizer share, or None if some differ."""
        if self._in_shared_memory or not positions:
            return None
        memory = memoryview(self._values).cast("B")
        return self._values[0] if memory[self._values.itemsize :] == memory[: -self._values.itemsize] else None

    def largest(self, positions: Sequence[int]) -> float:
        """Return the largest number of the parameters at these positions."""
        value = self.shared(positions)
        return max(self.at(positions)) if value is None else value

    def put(self, positions: Sequence[int], values: Sequence[float]) -> None:
        """Write the numbers of the parameters at these positions; a single number is that of all of them."""
        values = values if len(values) == len(positions) else [values[0]] * len(positions)
        if positions == self._all_positions and not self._in_shared_memory:
            self._values[:] = array(self._values.typecode, values)
            return
        for position, value in zip(positions, values, strict=True):
            if position in self._in_shared_memory:
                self._in_shared_memory[position].fill_(value)
            else:
                self._values[position] = value
        self._copy_to_fake_entries(positions)

    def add_one(self, positions: Sequence[int]) -> None:
        """Add one to the numbers of the parameters at these positions."""
        value = self.shared(positions) if positions == self._all_positions else None
        if value is not None:  # one operation in place, however many parameters there are
            self._values[:] = array(self._values.typecode, [value + 1]) * len(self._values)
        else:
            for position in positions:
                if position in self._in_shared_memory:
                    self._in_shared_memory[position].add_(1)
                else:
                    self._values[position] += 1
        self._copy_to_fake_entries(positions)


class ScalarState:
    """The scalars of all parameters of an optimizer: their step counts and the recurrent scalars of the rule.

    Args:
        num_params: The number of parameters of the optimizer.

    Attributes:
        steps: The number of steps of each parameter.
    """

    def __init__(self, num_params: int) -> None:
        self._num_params = num_params
        self.steps = self._new_array()
        self._recurrent_scalars: dict[str, ScalarArray] = {}

    def recurrent_scalars(self, name: str) -> ScalarArray:
        """Return the recurrent scalars of this name."""
        if name not in self._recurrent_scalars:
            self._recurrent_scalars[name] = self._new_array()
        return self._recurrent_scalars[name]

    def _new_array(self) -> ScalarArray:
        return ScalarArray(self._num_params)
