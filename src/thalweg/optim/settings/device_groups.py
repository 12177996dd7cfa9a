"""Device groups: parameter groups whose settings are on the device, where captured steps read them.

A setting that is a number is copied to the device when it changes: at ``group["lr"] = 0.1``, as schedulers write it,
and at the latest at the next step that is not replayed. A setting that is a tensor is read by each step, replayed or
not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.devices import is_capturing
from thalweg.errors import SettingError


class DeviceGroup(dict[str, Any]):
    """A parameter group that copies its settings to the devices of its parameters.

    Args:
        group: The group.
        who: The name of the optimizer, for messages.
        names: The names of the settings of each keyword, in order.
        numbers: The names of those that are numbers, in the order in which the steps read them.
    """

    def __init__(
        self, group: Mapping[str, Any], who: str, names: Mapping[str, Sequence[str]], numbers: Sequence[str]
    ) -> None:
        super().__init__(group)
        self._who, self._names, self._order = who, names, list(numbers)
        self._vectors: dict[torch.device, Tensor] = {}
        self._uploaded: dict[tuple[torch.device, str], float] = {}
        self._values: dict[int, tuple[Tensor, Any]] = {}  # the first value of each tensor, by its id

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if self._vectors and key in self._names:
            self._upload()

    def __reduce__(self) -> Any:
        return dict, (dict(self),)  # a copy belongs to no device

    def first_value(self, tensor: Tensor) -> Any:
        """Return the value that a tensor had when it was first seen: to read it at each step would wait for the device.

        It selects the code of the steps. The steps themselves read the tensor.
        """
        if id(tensor) not in self._values:
            self._values[id(tensor)] = tensor, tensor.tolist()
        return self._values[id(tensor)][1]

    def settings_on(self, device: torch.device) -> dict[str, Tensor]:
        """Return each setting by name, as a number in float64 on a device. To be called by each step.

        Raises:
            SettingError: If a setting is a tensor on another device.
        """
        if device not in self._vectors:
            if is_capturing():
                raise SettingError(
                    f"{self._who}: the settings must be on {device} before a step is captured. Take a step before."
                )
            self._vectors[device] = torch.zeros(len(self._order), dtype=torch.float64, device=device)
        entries = dict(zip(self._order, self._vectors[device].unbind(), strict=True))
        self._upload()
        for name, value in self._members().items():
            if isinstance(value, Tensor):
                if value.device != device:
                    raise SettingError(
                        f"{self._who}: {name} must be on {device} as the parameters, got a tensor on {value.device}, "
                        f"which a captured step cannot read. Pass a float, or a tensor with device={str(device)!r}."
                    )
                entries[name].copy_(value.detach().reshape(()))
        return entries

    def vector_on(self, device: torch.device) -> Tensor:
        """Return the memory of the settings on a device, in the order of the rule's numbers."""
        return self._vectors[device]

    def _members(self) -> dict[str, Any]:
        """Return the present value of each number: a tensor, or one of Python's."""
        values: dict[str, Any] = {}
        for keyword, names in self._names.items():
            value = self[keyword]
            if list(names) != [keyword]:
                members = value.unbind() if isinstance(value, Tensor) and value.dim() else value
                values |= dict(zip(names, members, strict=True))
            else:
                values[keyword] = value
        return {name: values[name] for name in self._order}

    def _upload(self) -> None:
        """Copy the numbers that have changed to all devices, without a wait."""
        for k, (name, value) in enumerate(self._members().items()):
            if isinstance(value, Tensor) or value is None:
                continue
            for device, vector in self._vectors.items():
                if self._uploaded.get((device, name)) == value:
                    continue
                if is_capturing():
                    raise SettingError(
                        f"{self._who}: {name} must not be set while a step is captured, since a replay would set it "
                        "again. Set it before, or between replays."
                    )
                vector[k].fill_(float(value))
                self._uploaded[device, name] = value
