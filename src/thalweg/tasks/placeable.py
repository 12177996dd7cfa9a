"""The device of a task or of a training function, and the user's line that made it."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self
from weakref import WeakValueDictionary

import torch

from thalweg.engine.core import devices
from thalweg.tasks.description import Described
from thalweg.tasks.user_code import calling_line


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Placeable(Described):
    """The device of a task or of a training function, and the user's line that made it.

    Attributes:
        device: The device as the user wrote it; ``"auto"`` leaves data and models where the user's code makes them.
        made_at: File and line of the user's code that made it, filled in for messages.
    """

    device: str | torch.device = devices.AUTO
    made_at: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.made_at:
            object.__setattr__(self, "made_at", calling_line())
        if self.device != devices.AUTO:
            object.__setattr__(self, "device", str(devices.parse(self.device)))

    @property
    def placed_on(self) -> torch.device | None:
        """The device of data and models; None if they lie where the user's code makes them.

        Raises:
            DeviceError: If there is no such device here.
        """
        return None if self.device == devices.AUTO else devices.check(self.device)

    @cached_property
    def _unplaced(self) -> Self:
        """The same task on no certain device, which reads the data for all devices."""
        return self if self.device == devices.AUTO else replace(self, device=devices.AUTO)

    @cached_property
    def _on_devices(self) -> WeakValueDictionary[str, Self]:
        return WeakValueDictionary()

    def on(self, device: str | torch.device) -> Self:
        """Return the task with its data and its models on a device.

        Data are read once, and moved once to each device as long as a task uses them there.

        Args:
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ..., or ``"auto"`` to leave everything where it is made.

        Raises:
            DeviceError: If this is no device.
        """
        if device == devices.AUTO:
            return self._unplaced
        key, known = str(devices.parse(device)), self._unplaced._on_devices
        placed = known.get(key)
        if placed is None:
            placed = known[key] = replace(self, device=key)
            placed.__dict__["_unplaced"] = self._unplaced
        return placed

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what lies on a device: each process places its own."""
        left_out = {"_on_devices"} if self.device == devices.AUTO else {"_on_devices", "splits"}
        return {name: value for name, value in self.__dict__.items() if name not in left_out}
