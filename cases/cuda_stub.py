"""A stub of a CUDA device: the text of the kernels is compiled by a C++ compiler, and tensors stay on the CPU.

Everything else of the path to a GPU runs as it is: the checks of a batch, its tables, launches, streams, caches.
"""

import ctypes
import hashlib
import subprocess
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cases.emulated_cuda import EmulatedModule
from thalweg.engine.kernels.cuda import driver
from thalweg.engine.kernels.cuda.driver import KernelLaunch
from thalweg.engine.kernels.kernel_spec import UnavailableError


class StubModule:
    """A compiled text.

    Args:
        module: The text, compiled for the CPU.
    """

    def __init__(self, module: EmulatedModule) -> None:
        self._module = module

    def function(self, name: str) -> Any:
        """Return a kernel of the text."""
        return partial(self._module.launch, name)


class StubDevice:
    """A device that runs kernels on tensors of the CPU.

    Args:
        parameter_bytes: The bytes that the argument of a kernel may have.

    Attributes:
        num_launches: The number of launches.
        num_uploads: The number of copies of scalars to the device.
        num_compiled: The number of texts that were compiled.
        current_stream: The stream that is current.
        held: The tensors that were held for a stream.
    """

    torch_device = torch.device("cpu")
    architecture = "stub"
    tolerance = 0.0

    def __init__(self, parameter_bytes: int = 32_764) -> None:
        self.parameter_bytes = parameter_bytes
        self.num_launches = self.num_uploads = self.num_compiled = 0
        self.current_stream = 0
        self.held: list[Tensor] = []

    def image_name(self, source: str) -> str:
        """Return the name under which a text is kept."""
        return hashlib.sha256(source.encode()).hexdigest()[:32] + ".stub"

    def compile(self, source: str) -> bytes:
        """Compile a text, and return it: the library is found again by the text."""
        self.num_compiled += 1
        try:
            EmulatedModule(source)
        except subprocess.CalledProcessError as error:
            raise UnavailableError(f"the C++ compiler failed: {error}") from error
        return source.encode()

    def load(self, image: bytes) -> StubModule:
        """Load a text."""
        return StubModule(EmulatedModule(image.decode()))

    def stream(self) -> int:
        """Return the current stream."""
        return self.current_stream

    def launch(self, launches: Sequence[KernelLaunch], num_threads: int, stream: int) -> None:
        """Run kernels, one after the other."""
        assert stream == self.current_stream
        for function, num_blocks, arguments in launches:
            assert num_blocks > 0, "CUDA refuses a launch without blocks"
            function(ctypes.c_char.from_address(arguments[0]), num_blocks, backwards=bool(self.num_launches % 2))
            self.num_launches += 1

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Remember tensors that are held for the current stream."""
        self.held += tensors

    def upload(self, values: "array[Any]", to: Tensor) -> None:
        """Copy values to a tensor."""
        self.num_uploads += 1
        to.view(torch.uint8)[: len(values) * values.itemsize].copy_(torch.frombuffer(values, dtype=torch.uint8))

    def background(self) -> Any:
        """Return a context that changes nothing."""
        return nullcontext()


@contextmanager
def installed(device: Any = None) -> Iterator[Any]:
    """Run the steps of parameters on the CPU by CUDA kernels on a stub.

    Args:
        device: The stub. Defaults to a new one.
    """
    before, driver.stub = driver.stub, device or StubDevice()
    try:
        yield driver.stub
    finally:
        driver.stub = before
