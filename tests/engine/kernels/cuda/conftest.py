"""A stub of a CUDA device, and a process without kernels."""

from collections.abc import Iterator

import pytest

from cases.cuda_stub import StubDevice, installed
from thalweg.engine import backends
from thalweg.engine.kernels import kernel_cache


@pytest.fixture
def device() -> Iterator[StubDevice]:
    """A stub that runs the steps of parameters on the CPU."""
    with installed() as stub:
        yield stub


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has no kernel yet."""
    monkeypatch.setattr(kernel_cache, "_KERNELS", {})
    monkeypatch.setattr(backends, "_WARNINGS", set())
