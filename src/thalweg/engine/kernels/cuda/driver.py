"""CUDA driver: load compiled images and launch their kernels, through ctypes.

torch's CUDA builds need the library of the driver themselves, so it is there whenever a tensor lies on a CUDA device.
Every launch is made in the primary context of the device, which is torch's, and on torch's current stream: so it is
ordered with the operations of torch, and recorded by graphs that torch captures. Nothing here waits for the device.
"""

import ctypes
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from thalweg.engine.kernels.cuda.compiler import Architecture, RuntimeCompiler, runtime_compiler
from thalweg.engine.kernels.kernel_spec import MissingToolError, UnavailableError

_SMALL_PARAMETERS = 4096  # bytes of the arguments of a kernel
_LARGE_PARAMETERS = 32764  # since CUDA 12.1, from compute capability 7.0 on
_FIRST_WITH_LARGE_PARAMETERS = 12010
_RELAXED_CAPTURE = 2  # CU_STREAM_CAPTURE_MODE_RELAXED of cuda.h
# Results of cuModuleLoadData for whole images that this driver cannot run: an invalid image, no binary for the GPU, an
# unsupported version of PTX, PTX that must not be compiled, unsupported synchronization.
_UNFIT_IMAGE = (200, 209, 222, 223, 225)


class KernelLaunch(NamedTuple):
    """One launch of a kernel.

    Attributes:
        function: The function of a module.
        num_blocks: The number of its blocks; at least one.
        arguments: The address of its only argument, as an array of one address.
    """

    function: Any
    num_blocks: int
    arguments: "ctypes.Array[ctypes.c_void_p]"


class Module(Protocol):
    """A loaded image."""

    def function(self, name: str) -> Any:
        """Return a kernel of the image."""


class Device(Protocol):
    """A device, and the tools that make kernels for it. A stub of it runs kernels without a GPU.

    Attributes:
        torch_device: The device, as tensors have it.
        architecture: The name of its architecture, and of the compiler if that chooses the code.
        parameter_bytes: The bytes that the arguments of a kernel may have.
        tolerance: The difference from the loop on the CPU that a kernel may have, in units of the last place.
    """

    torch_device: torch.device
    architecture: str
    parameter_bytes: int
    tolerance: float

    def image_name(self, source: str) -> str:
        """Return the name under which the image of a source is kept."""

    def compile(self, source: str) -> bytes:
        """Return the image of a source.

        Raises:
            UnavailableError: If it cannot be compiled.
        """

    def load(self, image: bytes) -> Module:
        """Load an image.

        Raises:
            UnavailableError: If it cannot be loaded.
        """

    def stream(self) -> int:
        """Return the current stream."""

    def launch(self, launches: Sequence[KernelLaunch], num_threads: int, stream: int) -> None:
        """Launch kernels, one after the other.

        Args:
            launches: The launches. Their arguments are copied before this returns.
            num_threads: The threads of a block.
            stream: The stream.
        """

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Keep the memory of tensors from other use until the work on the current stream is complete."""

    def upload(self, values: "array[Any]", to: Tensor) -> None:
        """Copy values to a tensor on the device, in the order of the current stream, without a wait.

        Args:
            values: The values, which may be changed afterwards.
            to: A contiguous tensor of as many bytes.
        """

    def background(self) -> AbstractContextManager[Any]:
        """Return a context for work that must not disturb the streams of other threads."""


class CudaError(RuntimeError):
    """A call of the driver failed."""


@cache
def _library() -> ctypes.CDLL | None:
    """Return the library of the driver; None if there is none."""
    if torch.version.hip:
        names = ["amdhip64.dll"] if sys.platform == "win32" else ["libamdhip64.so", "libamdhip64.so.6"]
    else:
        names = ["nvcuda.dll"] if sys.platform == "win32" else ["libcuda.so.1", "libcuda.so"]
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


class Driver:
    """The functions of the driver that kernels need.

    Args:
        library: The library of the driver, CUDA's or HIP's.
        is_hip: True for HIP's.
    """

    def __init__(self, library: ctypes.CDLL, *, is_hip: bool = False) -> None:
        self.is_hip = is_hip
        pointer, out = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
        number, text = ctypes.c_uint, ctypes.POINTER(ctypes.c_char_p)

        def function(name: str, *types: Any, hip: str = "") -> Any:
            # A copy of the pointer: another library of the process may have set other types on the shared one.
            pointer_of = getattr(library, hip or name.replace("cu", "hip", 1) if is_hip else name)
            return ctypes.CFUNCTYPE(ctypes.c_int, *types)(ctypes.cast(pointer_of, pointer).value or 0)

        try:
            self._version = function("cuDriverGetVersion", ctypes.POINTER(ctypes.c_int))
            self._module_load = function("cuModuleLoadData", out, pointer)
            self._module_function = function("cuModuleGetFunction", out, pointer, ctypes.c_char_p)
            launch_types = [pointer, *[number] * 7, pointer, pointer, pointer]
            self.launch_kernel = function("cuLaunchKernel", *launch_types, hip="hipModuleLaunchKernel")
            if is_hip:
                self._error_text = library.hipGetErrorString
                self._error_text.restype = ctypes.c_char_p
            else:
                self._error_name = function("cuGetErrorName", ctypes.c_int, text)
                self._error_string = function("cuGetErrorString", ctypes.c_int, text)
                self._device = function("cuDeviceGet", ctypes.POINTER(ctypes.c_int), ctypes.c_int)
                self._retain = function("cuDevicePrimaryCtxRetain", out, ctypes.c_int)
                self.push = function("cuCtxPushCurrent_v2", pointer)
                self.pop = function("cuCtxPopCurrent_v2", out)
                self._exchange_capture_mode = function(
                    "cuThreadExchangeStreamCaptureMode", ctypes.POINTER(ctypes.c_int)
                )
        except AttributeError as error:
            raise MissingToolError(f"the driver is too old for kernels: {error}") from error

    @property
    def version(self) -> int:
        """The version of CUDA that the driver supports, as 12010 for 12.1."""
        version = ctypes.c_int()
        self.check(self._version(ctypes.byref(version)), "cuDriverGetVersion")
        return version.value

    def check(self, code: int, call: str) -> None:
        """Raise CudaError if a call has failed.

        Args:
            code: The result of the call.
            call: The name of the function.
        """
        if code:
            raise CudaError(f"{call} failed: {self.describe(code)}")

    def describe(self, code: int) -> str:
        """Return the name and the text of an error."""
        if self.is_hip:
            return f"{(self._error_text(code) or b'?').decode(errors='replace')} ({code})"
        name, text = ctypes.c_char_p(), ctypes.c_char_p()
        self._error_name(code, ctypes.byref(name))
        self._error_string(code, ctypes.byref(text))
        return f"{(name.value or b'an unknown error').decode()} ({code}): {(text.value or b'').decode()}"

    def primary_context(self, index: int) -> int | None:
        """Return torch's context of a device; None with HIP, which has none."""
        if self.is_hip:
            return None
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.check(self._device(ctypes.byref(device), index), "cuDeviceGet")
        self.check(self._retain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
        return context.value

    def load(self, image: bytes) -> int:
        """Load an image in the current context.

        Raises:
            MissingToolError: If the driver cannot run such images.
            UnavailableError: If the image cannot be loaded.
        """
        module = ctypes.c_void_p()
        code = self._module_load(ctypes.byref(module), image)
        if code in _UNFIT_IMAGE and not self.is_hip:
            raise MissingToolError(
                f"the driver (CUDA {self.version // 1000}.{self.version % 1000 // 10}) cannot load compiled kernels: "
                f"{self.describe(code)}. Update the driver"
            )
        if code or module.value is None:
            raise UnavailableError(f"the kernel cannot be loaded: {self.describe(code)}")
        return module.value

    def function(self, module: int, name: str) -> int:
        """Return a kernel of a module."""
        function = ctypes.c_void_p()
        self.check(self._module_function(ctypes.byref(function), module, name.encode()), f"cuModuleGetFunction({name})")
        assert function.value is not None
        return function.value

    def exchange_capture_mode(self, mode: int) -> int:
        """Set what this thread may do while a graph is captured; return what it might do before."""
        if self.is_hip:
            return mode
        value = ctypes.c_int(mode)
        self.check(self._exchange_capture_mode(ctypes.byref(value)), "cuThreadExchangeStreamCaptureMode")
        return value.value


class CudaModule:
    """An image on one device.

    Args:
        device: The device.
        handle: The module of the driver.
    """

    def __init__(self, device: "CudaDevice", handle: int) -> None:
        self._device, self._handle = device, handle

    def function(self, name: str) -> int:
        """Return a kernel of the image."""
        with self._device.context():
            return self._device.driver.function(self._handle, name)


class CudaDevice:
    """A CUDA device, or an AMD one.

    Args:
        index: The number of the device.

    Raises:
        MissingToolError: If the driver or the compiler cannot be used.
    """

    tolerance = 16.0  # of an operation that a GPU rounds otherwise; a wrong kernel is off by far more

    def __init__(self, index: int) -> None:
        self.torch_device = torch.device("cuda", index)
        library, compiler = _library(), runtime_compiler()
        if library is None:
            raise MissingToolError("the library of the driver was not found (libcuda.so.1)")
        if compiler is None:
            raise MissingToolError("NVRTC was not found. Install the package nvidia-cuda-nvrtc of torch's CUDA version")
        self._compiler: RuntimeCompiler = compiler
        self.driver = Driver(library, is_hip=bool(torch.version.hip))
        properties = torch.cuda.get_device_properties(index)  # initializes CUDA, or raises torch's error in a fork
        if self.driver.is_hip:
            self._architecture = Architecture(properties.gcnArchName)
        else:
            self._architecture = compiler.architecture((properties.major, properties.minor))
        self.architecture = f"{self._architecture.name}, {compiler.version}"
        is_large = (
            compiler.supports_large_parameters
            and properties.major >= 7
            and self.driver.version >= _FIRST_WITH_LARGE_PARAMETERS
        )
        self.parameter_bytes = _LARGE_PARAMETERS if is_large else _SMALL_PARAMETERS
        self._context = self.driver.primary_context(index)

    def image_name(self, source: str) -> str:
        """Return the name under which the image of a source is kept."""
        return self._compiler.image_name(source, self._architecture)

    def compile(self, source: str) -> bytes:
        """Return the image of a source."""
        return self._compiler.compile(source, self._architecture)

    def load(self, image: bytes) -> CudaModule:
        """Load an image."""
        with self.context():
            return CudaModule(self, self.driver.load(image))

    @contextmanager
    def context(self) -> Iterator[None]:
        """Make this device the current one: a new thread has none, and another one may be current."""
        if self._context is None:
            with torch.cuda.device(self.torch_device):
                yield
            return
        self.driver.check(self.driver.push(self._context), "cuCtxPushCurrent")
        try:
            yield
        finally:
            self.driver.pop(ctypes.byref(ctypes.c_void_p()))

    def stream(self) -> int:
        """Return torch's current stream. In a forked process this raises torch's error, before a driver is called."""
        return int(torch.cuda.current_stream(self.torch_device).cuda_stream)

    def launch(self, launches: Sequence[KernelLaunch], num_threads: int, stream: int) -> None:
        """Launch kernels, one after the other."""
        launch_kernel = self.driver.launch_kernel
        with self.context():
            for function, num_blocks, arguments in launches:
                code = launch_kernel(function, num_blocks, 1, 1, num_threads, 1, 1, 0, stream, arguments, None)
                if code:
                    self.driver.check(code, "cuLaunchKernel")

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Keep the memory of tensors from other use until the work on the current stream is complete."""
        for tensor in tensors:
            tensor.record_stream(torch.cuda.current_stream(self.torch_device))

    def upload(self, values: "array[Any]", to: Tensor) -> None:
        """Copy values to a tensor on the device, in the order of the current stream, without a wait.

        They pass through pinned memory. torch gives it to nobody else before the copy is complete.
        """
        size = len(values) * values.itemsize
        pinned = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)
        ctypes.memmove(pinned.data_ptr(), values.buffer_info()[0], size)
        to.view(torch.uint8)[:size].copy_(pinned, non_blocking=True)

    @contextmanager
    def background(self) -> Iterator[None]:
        """Work on a stream of its own, beside graphs that other threads capture."""
        # torch's context would do nothing in a new thread for device 0, so the context of the driver is set, too.
        stream = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]  # of torch
        with self.context(), torch.cuda.device(self.torch_device), torch.cuda.stream(stream):
            before = self.driver.exchange_capture_mode(_RELAXED_CAPTURE)
            try:
                yield
                torch.cuda.current_stream().synchronize()
            finally:
                self.driver.exchange_capture_mode(before)


_DEVICES: dict[int, CudaDevice] = {}
stub: Device | None = None  # runs kernels on tensors of the CPU, in tests


def device_of(device: torch.device) -> Device | None:
    """Return the device that runs kernels for tensors of a torch device; None for those that are not CUDA's.

    Raises:
        MissingToolError: If no kernel can run on it.
    """
    if stub is not None and device.type == stub.torch_device.type:
        return stub
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _DEVICES:
        _DEVICES[index] = CudaDevice(index)
    return _DEVICES[index]
