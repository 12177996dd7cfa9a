"""Graphs: functions on a device that are captured at their second call and then replayed by one call of the host.

A step of many small operations takes a GPU less time than the host needs to start them. A CUDA graph starts them all at
once. It repeats the same kernels on the same addresses with the same numbers, so a captured function must

- read and write only memory that stays in place: results go into tensors that exist before;
- take no number from the host that changes: counters and scalars of a step are tensors on the device, and `upload`
  changes them between calls;
- not wait for the device, as `item()` does.
"""

import gc
import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

Function = Callable[[], None]


class Capture(Protocol):
    """The way in which functions on a device become graphs."""

    def warm_up(self, function: Function) -> None:
        """Call a function as it will be captured, so that libraries allocate what they need before that."""

    def capture(self, function: Function) -> Function:
        """Capture a function without executing it, and return a function that replays it.

        Raises:
            Exception: Of any kind, if the function cannot be captured. Then the function can still be called.
        """

    def forget(self) -> None:
        """Release the memory of all captures; none of them is replayed any more."""


class CudaCapture:
    """Captures CUDA graphs (or HIP graphs). They share one memory pool, which holds nothing between replays.

    Args:
        device: The CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, function: Function) -> None:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            function()
        current.wait_stream(self._stream)

    def capture(self, function: Function) -> Function:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        # Garbage collection could release CUDA memory or graphs of others meanwhile, which voids a capture.
        collects = gc.isenabled()
        gc.disable()
        try:
            # `torch.cuda.graph` would leave its stream current after a failure, and empty the allocator's caches.
            with torch.cuda.stream(self._stream):
                # Other threads may compile and load kernels meanwhile.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    function()
                except BaseException:
                    with suppress(Exception):  # the cause is the first error
                        graph.capture_end()
                    raise
                graph.capture_end()
        except BaseException:
            self._recover()
            raise
        finally:
            if collects:
                gc.enable()
        return graph.replay

    def forget(self) -> None:
        # torch refuses a pool whose graphs are all gone.
        self._pool = torch.cuda.graph_pool_handle()

    def _recover(self) -> None:
        """Leave a capture that failed: torch's allocator and its random numbers would stay in it."""
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        with suppress(AttributeError, RuntimeError):
            # The first raises if `capture_end` left the pool in order. Then the graph alone must release it.
            torch._C._cuda_endAllocateToPool(index, self._pool)
            torch._C._cuda_releasePool(index, self._pool)
        generator = torch.cuda.default_generators[index]
        fresh = torch.Generator(device=torch.device("cuda", index))
        fresh.set_state(generator.get_state())
        generator.graphsafe_set_state(fresh.graphsafe_get_state())
        self.forget()


def capture_for(device: torch.device) -> Capture | None:
    """Return the way to capture functions on a device; None if torch has no graphs there."""
    return CudaCapture(device) if device.type == "cuda" else None


class GraphCache:
    """Functions by a key. Each runs as it is at its first call, is captured at its second, and replayed from then on.

    After an exception in a capture all functions run as they are, and ``why_eager`` says why.

    Args:
        capture: Makes graphs of functions; None runs functions as they are.

    Attributes:
        why_eager: The reason why functions are not captured; None as long as they are.

    Example:
        >>> import torch
        >>> from thalweg.engine.graphs import GraphCache
        >>> total = torch.zeros(())
        >>> cache = GraphCache(None)
        >>> def add():
        ...     total.add_(1)
        >>> cache.call("add", add)
        >>> total, cache.why_eager
        (tensor(1.), 'torch has no graphs on this device')
    """

    def __init__(self, capture: Capture | None) -> None:
        self._capture = capture
        self.why_eager = None if capture else "torch has no graphs on this device"
        self._warm: set[Hashable] = set()
        self._replays: dict[Hashable, Function] = {}

    def call(self, key: Hashable, function: Function) -> None:
        """Run a function, or its capture.

        Args:
            key: Equal for functions that do the same operations on the same tensors.
            function: The function.
        """
        if replay := self._replays.get(key):
            replay()
        elif self._capture is None:
            function()
        elif key not in self._warm:
            self._capture.warm_up(function)
            self._warm.add(key)
        else:
            self._begin_capture(self._capture, key, function)

    def _begin_capture(self, capture: Capture, key: Hashable, function: Function) -> None:
        try:
            replay = capture.capture(function)
        except Exception as error:  # torch and CUDA refuse captures in many ways
            self.clear()
            self._capture = None
            summary = str(error).partition("\n")[0][:120]
            self.why_eager = f"capturing a graph failed ({type(error).__name__}: {summary})"
            logging.getLogger("thalweg").warning("steps on the device start one by one, as %s", self.why_eager)
            function()
        else:
            self._replays[key] = replay
            replay()

    def clear(self) -> None:
        """Forget all captures, for example because tensors have moved. Functions are captured anew."""
        self._replays.clear()
        self._warm.clear()
        if self._capture is not None:
            self._capture.forget()


def upload(target: Tensor, source: Tensor) -> None:
    """Copy a tensor of the host into one of a device, in the order of the device's work; the host does not wait.

    Args:
        target: The tensor on the device, written in place.
        source: The tensor on the host, of the same shape. It may be changed or released at once.
    """
    if target.device.type == "cuda":
        # A copy from pinned memory does not wait. torch keeps that memory until the copy is done.
        target.copy_(source.pin_memory(), non_blocking=True)
    else:
        target.copy_(source)
