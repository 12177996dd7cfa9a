"""CUDA target: the tools that make kernels for a CUDA device."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from thalweg.engine.kernels.c_kernel import separate_memory_probe
from thalweg.engine.kernels.cuda import driver
from thalweg.engine.kernels.cuda.call import MAX_CALL_BYTES_BEFORE_12_1, gradient_capacity
from thalweg.engine.kernels.cuda.driver import Device
from thalweg.engine.kernels.cuda.kernel import CudaKernel
from thalweg.engine.kernels.cuda.source import NUM_GRADS, cuda_source
from thalweg.engine.kernels.kernel import Target, Variant
from thalweg.engine.kernels.kernel_spec import MissingToolError
from thalweg.engine.kernels.passes import Passes


class CudaTarget(Target):
    """A CUDA device, with NVRTC.

    Args:
        device: The device, or the reason why no kernel can run on it.
        is_large: True for kernels whose argument is as large as the device allows, for batches of many tensors.
    """

    where = "on the GPU"

    def __init__(self, device: Device | MissingToolError, *, is_large: bool) -> None:
        self._is_large = is_large
        if isinstance(device, MissingToolError):
            self._device, self._reason = None, str(device)
            self.key = "cuda", self._reason
            return
        self._device, self._reason = device, ""
        self.device, self.tolerance = device.torch_device, device.tolerance
        self.key = "cuda", device.architecture, is_large and device.parameter_bytes

    def missing(self) -> str | None:
        """Return the reason why no kernel can run on the device; None if the tools are there."""
        return self._reason or None

    def source(self, passes: Passes) -> str:
        """Print passes as CUDA text."""
        return cuda_source(passes, self._num_grads(passes))

    def _num_grads(self, passes: Passes) -> int:
        num_scalars = len(passes.recording.coefficients)
        if self._is_large and self._device is not None:
            return gradient_capacity(num_scalars, self._device.parameter_bytes)
        return min(NUM_GRADS, gradient_capacity(num_scalars, MAX_CALL_BYTES_BEFORE_12_1))

    def variants(self, source: str) -> list[Variant]:
        """Return how a source is compiled: for the architecture of the device."""
        if self._device is None:
            return []
        device = self._device
        return [Variant(device.image_name(source), lambda _: device.compile(source))]

    def load(self, library: bytes, passes: Passes) -> CudaKernel:
        """Load an image that was made from passes."""
        assert self._device is not None, "an image was made"
        kernel = CudaKernel(library, passes, self._num_grads(passes), separate_memory_probe())
        kernel.module(self._device)
        return kernel

    def trial(self) -> AbstractContextManager[Any]:
        """Return a context in which a kernel is loaded and tried beside the work of other threads."""
        return nullcontext() if self._device is None else self._device.background()


def target_of(device: torch.device, num_tensors: int) -> Target | None:
    """Return the target that makes kernels for tensors on a device; None if it is not a CUDA device.

    Args:
        device: The device.
        num_tensors: The number of tensors of a batch. The argument of a kernel is as large as it needs to be.
    """
    try:
        present = driver.device_of(device)
    except MissingToolError as error:
        return CudaTarget(error, is_large=False)
    return None if present is None else CudaTarget(present, is_large=num_tensors > NUM_GRADS)
