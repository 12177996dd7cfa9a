"""Measure: times, bytes, dispatches and memory of steps."""

import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def interleaved(steps: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round. All are timed once a round, so that slow moments of the machine meet all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of medians, and the tenth and ninetieth percentile of the ratios round by round."""
    ratios = [one / other for one, other in zip(times, baseline, strict=True)]
    each = statistics.quantiles(ratios, n=10, method="inclusive")  # the other method goes beyond what was seen
    return statistics.median(times) / statistics.median(baseline), each[0], each[-1]


def bandwidth(size_bytes: int = 400_000_000, rounds: int = 9) -> float:
    """Bytes a second that this machine reads and writes in place, in vectors that no cache holds."""
    vector = torch.ones(size_bytes // 4)
    times = interleaved({"scale": lambda: _scale(vector)}, rounds)["scale"]
    return 2 * size_bytes / statistics.median(times)


def _scale(vector: Tensor) -> None:
    vector.mul_(1.0)


class Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Counts what a step asks of PyTorch: operations, and the most memory that they held at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.held_bytes = self.peak_bytes = 0
        self._held: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        given = {one.untyped_storage().data_ptr() for one in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            address, size = storage.data_ptr(), storage.nbytes()
            if address and address not in given and address not in self._held:
                self._held[address] = size
                self.held_bytes += size
                weakref.finalize(tensor, self._let_go, address)
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return result

    def _let_go(self, address: int) -> None:
        self.held_bytes -= self._held.pop(address, 0)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in _tensors(one)]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return []
