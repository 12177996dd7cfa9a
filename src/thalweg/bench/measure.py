"""Measure time, memory bandwidth, operations and extra memory of optimizer steps."""

import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def time_interleaved(functions: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each function in each round.

    Each round calls every function once, so that a slow moment of the machine affects all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times


def ratio_of_medians(times: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float]:
    """Return the ratio of medians, and the 10th and 90th percentile of the ratios of single rounds."""
    ratios = [time_s / baseline_s for time_s, baseline_s in zip(times, baseline, strict=True)]
    deciles = statistics.quantiles(ratios, n=10, method="inclusive")  # the other method extrapolates
    return statistics.median(times) / statistics.median(baseline), deciles[0], deciles[-1]


def memory_bandwidth(size_bytes: int = 400_000_000, rounds: int = 9) -> float:
    """Return the bytes per second that this machine reads and writes in place, in vectors larger than any cache."""
    vector = torch.ones(size_bytes // 4)
    times = time_interleaved({"scale": lambda: _scale(vector)}, rounds)["scale"]
    return 2 * size_bytes / statistics.median(times)


def _scale(vector: Tensor) -> None:
    vector.mul_(1.0)


class DispatchCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    """Counts the operations that PyTorch dispatches inside a ``with`` block, and the memory of their results.

    Attributes:
        operations: Number of dispatched operations.
        held_bytes: Memory of the results that are alive now, in bytes.
        peak_bytes: Largest ``held_bytes`` so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.operations = 0
        self.held_bytes = self.peak_bytes = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        inputs = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            address, size = storage.data_ptr(), storage.nbytes()
            if address and address not in inputs and address not in self._held:
                self._held[address] = size
                self.held_bytes += size
                weakref.finalize(tensor, self._release, address)
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return result

    def _release(self, address: int) -> None:
        self.held_bytes -= self._held.pop(address, 0)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return []
