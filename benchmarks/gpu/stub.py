"""The stub: the parts run on the CPU, where nothing but their own code is proved."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

import torch

from thalweg.bench.device_meter import DeviceMeter
from thalweg.bench.measure import DispatchCounter


def device() -> torch.device:
    """Return the device on which the stub works, with the driver of CUDA replaced."""
    return torch.device("cpu")


class HostMeter(DeviceMeter):
    """A meter for the CPU with the interface of a device's: each call is done when it returns."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def current(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def synchronize(self) -> None:
        pass

    def event(self) -> "HostEvent":
        return HostEvent()

    def peak_extra_bytes(self, function: Callable[[], None]) -> int | None:
        with DispatchCounter() as counter:
            function()
        return counter.peak_bytes

    def count_waits(self, function: Callable[[], None]) -> int | None:
        function()
        return 0

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        function()
        return function

    def describe(self) -> dict[str, Any]:
        return {"device": "cpu", "gpu": None}


class HostEvent:
    """The time of the host."""

    def record(self) -> None:
        self.time_s = perf_counter()

    def elapsed_time(self, end: "HostEvent", /) -> float:
        return 1e3 * (end.time_s - self.time_s)


def meter(session_device: torch.device) -> DeviceMeter:
    """Return the meter of a device: that of the host for the CPU."""
    return HostMeter() if session_device.type == "cpu" else DeviceMeter(session_device)
