"""Scalar state on devices: step counts and recurrent scalars that captured steps read and write."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.state.scalar_state import ScalarArray, ScalarState


class DeviceScalarArray(ScalarArray):
    """One number for each parameter, on its device. The entries of the state are views of one vector for each device.

    Args:
        devices: The device of each parameter.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._devices = devices
        self._vectors = {
            device: torch.zeros(len(devices), dtype=torch.float64, device=device) for device in dict.fromkeys(devices)
        }
        views = {device: vector.unbind() for device, vector in self._vectors.items()}
        self._entries = [views[device][position] for position, device in enumerate(devices)]

    def vector(self, device: torch.device) -> Tensor:
        """Return the memory of the numbers on a device, by position in the optimizer."""
        return self._vectors[device]

    def adopt(self, record: dict[str, Any], name: str, position: int, initial: float) -> None:
        """Take over the number in a record, or the initial one. From then on the record holds the view of ours."""
        entry, saved = self._entries[position], record.get(name)
        if saved is entry:
            return
        if isinstance(saved, Tensor) and not saved.is_meta:
            entry.copy_(saved.reshape(()))
        else:
            entry.fill_(initial if saved is None or isinstance(saved, Tensor) else float(saved))
        record[name] = entry

    def at(self, positions: Sequence[int]) -> list[float]:
        """Return the numbers of the parameters at these positions. This waits for the device."""
        values = {device: vector.tolist() for device, vector in self._vectors.items()}
        return [values[self._devices[position]][position] for position in positions]

    def shared(self, positions: Sequence[int]) -> float | None:
        """Return None: no number is known on the host."""
        return None

    def put(self, positions: Sequence[int], values: Sequence[float]) -> None:
        """Write the numbers of the parameters at these positions; a single number is that of all of them."""
        values = values if len(values) == len(positions) else [values[0]] * len(positions)
        for position, value in zip(positions, values, strict=True):
            self._entries[position].fill_(value)

    def add_one(self, positions: Sequence[int]) -> None:
        """Add one to the numbers of the parameters at these positions."""
        for position in positions:
            self._entries[position].add_(1)


class DeviceScalarState(ScalarState):
    """The scalars of all parameters of an optimizer, on their devices.

    Args:
        devices: The device of each parameter.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._devices = devices
        super().__init__(len(devices))

    def _new_array(self) -> DeviceScalarArray:
        return DeviceScalarArray(self._devices)
