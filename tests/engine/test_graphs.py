"""Capture of CUDA graphs, through stand-ins for torch's functions that refuse what torch refuses."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from thalweg.engine.graphs import CudaCapture, GraphCache, capture_for, upload

DEVICE = torch.device("cuda", 0)


class Cuda:
    """The part of CUDA that a capture uses.

    Attributes:
        log: The calls, in order.
        executed: Number of functions that ran, and of those that were replayed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.stream = "default"
        self.capturing = False
        self.broken = False
        self.pools = 0
        self.pools_in_capture: list[tuple[int, int]] = []
        self.generator = SimpleNamespace(get_state=lambda: "state", graphsafe_set_state=self.log.append)
        cuda = self

        class Stream:
            def __init__(self, device: torch.device) -> None:
                assert device == DEVICE

            def wait_stream(self, other: object) -> None:
                cuda.log.append("side waits")

        class Graph:
            def capture_begin(self, pool: tuple[int, int], capture_error_mode: str) -> None:
                assert cuda.stream == "side"
                assert capture_error_mode == "thread_local"
                cuda.capturing, cuda.pools_in_capture = True, [*cuda.pools_in_capture, pool]

            def capture_end(self) -> None:
                assert cuda.capturing
                cuda.capturing = False
                if cuda.broken:
                    raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
                cuda.pools_in_capture.pop()

            def replay(self) -> None:
                assert not cuda.capturing
                cuda.log.append("replay")

        @contextmanager
        def stream(selected: Stream) -> Iterator[None]:
            cuda.stream = "side"
            try:
                yield
            finally:
                cuda.stream = "default"

        def end_pool(index: int, pool: tuple[int, int]) -> None:
            if pool not in cuda.pools_in_capture:
                raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
            cuda.pools_in_capture.remove(pool)
            cuda.log.append(f"pool {pool[1]} ended")

        def new_pool() -> tuple[int, int]:
            self.pools += 1
            return 0, self.pools

        default = SimpleNamespace(wait_stream=lambda other: cuda.log.append("default waits"))
        for name, value in {
            "Stream": Stream,
            "CUDAGraph": Graph,
            "stream": stream,
            "current_stream": lambda device: default,
            "graph_pool_handle": new_pool,
            "synchronize": lambda device: cuda.log.append("synchronize"),
            "default_generators": (self.generator,),
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end_pool, raising=False)
        released = lambda index, pool: cuda.log.append(f"pool {pool[1]} released")  # noqa: E731
        monkeypatch.setattr(torch._C, "_cuda_releasePool", released, raising=False)
        fresh = SimpleNamespace(set_state=lambda state: None, graphsafe_get_state=lambda: "fresh generator")
        monkeypatch.setattr(torch, "Generator", lambda device: fresh)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def counted(cuda: Cuda, effect: Callable[[], None] = lambda: None) -> Callable[[], None]:
    def function() -> None:
        cuda.log.append(f"called {'in capture' if cuda.capturing else 'on ' + cuda.stream}")
        assert not cuda.capturing or not gc.isenabled()
        effect()

    return function


def test_a_function_is_called_then_captured_then_replayed(cuda: Cuda) -> None:
    cache = GraphCache(capture_for(DEVICE))
    for _ in range(3):
        cache.call("step", counted(cuda))
    assert cuda.log == [
        *("side waits", "called on side", "default waits"),  # the first call, as it will be captured
        *("synchronize", "called in capture", "replay"),
        "replay",
    ]
    assert cache.why_eager is None
    assert gc.isenabled()
    assert cuda.stream == "default"


def test_functions_share_a_pool_until_they_are_forgotten(cuda: Cuda) -> None:
    capture = CudaCapture(DEVICE)
    cache = GraphCache(capture)
    pools = []
    for key in ("a", "a", "b", "b"):
        cache.call(key, counted(cuda))
        pools.append(capture._pool)
    assert len(set(pools)) == 1
    cache.clear()
    assert capture._pool not in pools, "torch refuses a pool whose graphs are all gone"
    cuda.log.clear()
    cache.call("a", counted(cuda))
    assert cuda.log == ["side waits", "called on side", "default waits"], "tensors may have moved"


@pytest.mark.parametrize("broken", [False, True])
def test_a_failed_capture_is_left_in_order(cuda: Cuda, broken: bool) -> None:
    """CUDA ends a capture with an error after an operation that it refuses, and without one after one of Python."""

    def fail() -> None:
        if cuda.capturing:
            cuda.broken = broken
            raise ValueError("the first error\nits details")

    cache = GraphCache(CudaCapture(DEVICE))
    for _ in range(2):
        cache.call("other", counted(cuda))
    cache.call("step", counted(cuda, fail))
    cuda.log.clear()
    cache.call("step", counted(cuda, fail))
    ended = ["pool 1 ended", "pool 1 released"] if broken else []  # else the graph releases it
    assert cuda.log == ["synchronize", "called in capture", *ended, "fresh generator", "called on default"]
    assert cache.why_eager == "capturing a graph failed (ValueError: the first error)"
    assert gc.isenabled()
    assert cuda.stream == "default"
    assert not cuda.capturing
    assert not cuda.pools_in_capture
    cuda.log.clear()
    cache.call("other", counted(cuda))
    assert cuda.log == ["called on default"], "a capture would use the random numbers that were left behind"


def test_an_error_of_the_first_call_is_raised(cuda: Cuda) -> None:
    def fail() -> None:
        raise ValueError("no step")

    cache = GraphCache(CudaCapture(DEVICE))
    with pytest.raises(ValueError, match="no step"):
        cache.call("step", fail)
    assert cache.why_eager is None


def test_a_device_without_graphs_calls_functions_as_they_are() -> None:
    for device in ("cpu", "mps", "xpu"):
        cache = GraphCache(capture_for(torch.device(device)))
        calls: list[int] = []
        for _ in range(3):
            cache.call("step", lambda calls=calls: calls.append(1))
        assert len(calls) == 3
        assert cache.why_eager == "torch has no graphs on this device"


def test_upload_writes_in_place() -> None:
    target = torch.zeros(2, 3)
    source, address = torch.ones(2, 3, dtype=torch.float64), target.data_ptr()
    upload(target, source)
    source.zero_()
    assert torch.equal(target, torch.ones(2, 3))
    assert target.data_ptr() == address
