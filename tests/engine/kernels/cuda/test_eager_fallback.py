"""A device or a kernel that fails leaves the steps to eager backends."""

import logging
from typing import Any

import pytest
import torch

from cases.cuda_stub import StubDevice, installed
from tests.engine.kernels.cuda.stepped import filled, on_loop, train
from thalweg import optim
from thalweg.engine.kernels.cuda.kernel import BoundCudaKernel
from thalweg.engine.kernels.kernel_spec import MissingToolError, UnavailableError


def test_steps_run_on_an_eager_backend_until_the_kernel_is_ready(no_kernels: None, fresh_machine: object) -> None:
    params = filled([(3,)])
    with installed():
        optimizer = optim.Adam(params)
        train(optimizer, params, 1)
        assert "until its kernel has been compiled" in str(optimizer.plan) or "compiled" in str(optimizer.plan)
        optimizer.prepare()
        train(optimizer, params, 2, first=1)
        assert str(optimizer.plan).startswith("compiled: elementwise, on the GPU")
    assert torch.equal(params[0], on_loop(optim.Adam, [(3,)])[0])


class Failing(StubDevice):
    """A device on which one operation fails.

    Args:
        operation: Its name.
        error: The error.
    """

    def __init__(self, operation: str, error: Exception) -> None:
        super().__init__()
        self.architecture = f"failing {operation}"

        def fail(*_: Any) -> Any:
            raise error

        setattr(self, operation, fail)

    def image_name(self, source: str) -> str:
        """Return a name that no cache knows."""
        return f"{self.architecture}{len(source)}"


@pytest.mark.parametrize(
    ("operation", "error", "expected", "num_logged"),
    [
        ("compile", UnavailableError("nvrtc failed: line 3"), "nvrtc failed: line 3", 0),
        ("load", MissingToolError("the driver (CUDA 11.8) cannot load compiled kernels"), "the driver (CUDA 11.8)", 1),
        ("launch", RuntimeError("CUDA_ERROR_LAUNCH_FAILED"), "the kernel cannot be tried: RuntimeError: CUDA_ERROR", 0),
    ],
)
def test_a_device_that_fails_leaves_steps_to_eager_backends(
    operation: str,
    error: Exception,
    expected: str,
    num_logged: int,
    no_kernels: None,
    fresh_machine: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with installed(Failing(operation, error)), caplog.at_level(logging.WARNING, "thalweg"):
        for make in (optim.Adam, optim.SGD):
            params = filled([(3,)])
            optimizer = make(params)
            optimizer.prepare()
            train(optimizer, params)
            assert str(optimizer.plan).startswith(f"flat: {expected}")
            assert torch.equal(params[0], on_loop(make, [(3,)])[0])
    assert len(caplog.records) == num_logged


def test_a_device_without_memory_for_tables(device: StubDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    params = filled([(3,)])
    optim.Adam(params).prepare()  # the kernel is there

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(BoundCudaKernel, "_create_tables", refuse)
    optimizer = optim.Adam(params)
    train(optimizer, params)
    assert str(optimizer.plan).startswith("flat: cpu has no memory left for the tables of its kernel")
    assert torch.equal(params[0], on_loop(optim.Adam, [(3,)])[0])


def test_a_kernel_that_disagrees_with_the_loop_is_never_used(no_kernels: None, fresh_machine: object) -> None:
    class Wrong(StubDevice):
        architecture = "wrong"

        def launch(self, launches: Any, num_threads: int, stream: int) -> None:
            super().launch(launches[:0], num_threads, stream)

    with installed(Wrong()):
        plan = optim.SGD(filled([(3,)])).prepare()
    assert str(plan).startswith("flat: the compiled kernel and the loop disagree on this machine")
