"""A meter of steps on a device: marks in its queue, memory, waits, and graphs."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from thalweg.engine.core import devices
from thalweg.errors import DeviceError

_WARM_UP_CALLS = 3  # torch's guide asks for as many before a capture


class Event(Protocol):
    """A mark in the queue of a device."""

    def record(self) -> object:
        """Put the mark behind all work that is in the queue."""

    def elapsed_time(self, end: Any, /) -> float:
        """Return the milliseconds from this mark to another, when the device has passed both."""


class DeviceMeter:
    """Measures steps on an accelerator.

    Args:
        device: A device that exists, with its index.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module: Any = torch.get_device_module(device)

    def current(self) -> AbstractContextManager[Any]:
        """Return a context in which the device is the current one of its kind."""
        if self.device.type == "mps":
            return warnings.catch_warnings()  # there is one such device
        context: AbstractContextManager[Any] = self._module.device(self.device)
        return context

    def synchronize(self) -> None:
        """Wait until the queue of the device is empty."""
        devices.synchronize(self.device)

    def event(self) -> Event:
        """Return a new mark for the queue."""
        event: Event = self._module.Event(enable_timing=True)
        return event

    def peak_extra_bytes(self, function: Callable[[], None]) -> int | None:
        """Return how many more bytes are allocated at most while a function runs; None where nobody counts."""
        if self.device.type == "mps":  # it knows no peak
            return None
        self.synchronize()
        devices.start_memory_count(self.device)
        before = devices.peak_memory(self.device) or 0
        function()
        self.synchronize()
        return (devices.peak_memory(self.device) or 0) - before

    def count_waits(self, function: Callable[[], None]) -> int | None:
        """Return how often a function waits for the device, by torch's sync debug mode; None if the device has none."""
        if self.device.type != "cuda":
            return None
        self.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                function()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("called a synchronizing" in str(warning.message) for warning in caught)

    def warm_up(self, function: Callable[[], None]) -> None:
        """Call a function on another stream, as it must have been before it is recorded."""
        if self.device.type != "cuda":
            function()
            return
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function()
        torch.cuda.current_stream().wait_stream(stream)

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record the work of a function in a CUDA graph, without running it.

        Returns:
            A function that runs the recorded work.

        Raises:
            DeviceError: If the device has no graphs.
        """
        if self.device.type != "cuda":
            raise DeviceError(f"bench: only cuda has graphs, got {self.device.type}. Leave captured steps out.")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        return graph.replay

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Warm a function up, record its work, and return a function that runs it.

        Raises:
            DeviceError: If the device has no graphs.
        """
        for _ in range(_WARM_UP_CALLS):
            self.warm_up(function)
        return self.record(function)

    def describe(self) -> dict[str, Any]:
        """Return the facts about the device that a record names."""
        facts: dict[str, Any] = {"device": str(self.device), "gpu": devices.hardware(self.device)}
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            facts |= {
                "memory_gb": properties.total_memory / 1e9,
                "multiprocessors": properties.multi_processor_count,
                "capability": f"{properties.major}.{properties.minor}",
                "cuda": torch.version.cuda or f"ROCm {torch.version.hip}",
            }
        return facts
