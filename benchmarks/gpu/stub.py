"""The stub: kernels of CUDA, compiled by g++, run on tensors of the CPU, and the parts see a device in it.

It proves that the parts run to their end. Times are those of the host and mean nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

import torch

from cases.cuda_stub import StubDevice
from thalweg.bench.device_meter import DeviceMeter
from thalweg.bench.measure import DispatchCounter
from thalweg.engine.kernels.cuda import driver


def device() -> torch.device:
    """Replace the driver of CUDA by a stub, for this process, and return the device on which it works."""
    driver.stub = StubDevice()
    return driver.stub.torch_device


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

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
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
