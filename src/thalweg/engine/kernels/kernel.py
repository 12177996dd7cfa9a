"""Kernel: the compiled step of a program, bound to a batch and run; and the target that makes such kernels."""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.kernels.kernel_spec import check_batch
from thalweg.engine.kernels.passes import Passes

# Bytes that a bound kernel may hold beside the state, for sums. The rows and columns of 3x3 filters would take more.
MAX_REDUCTION_BYTES = 64_000_000


class Kernel(ABC):
    """The compiled step of one program, for parameters of one dtype.

    Args:
        passes: The passes that it was printed from.
    """

    def __init__(self, passes: Passes) -> None:
        self.passes = passes

    @abstractmethod
    def bind(self, batch: ParameterBatch) -> "BoundKernel":
        """Return the kernel with the addresses of a batch.

        Args:
            batch: The parameters.

        Raises:
            UnavailableError: If the kernel cannot run the batch.
        """


class BoundKernel(ABC):
    """A kernel with the addresses of a batch.

    Args:
        passes: The passes of the kernel.
        batch: The parameters.

    Raises:
        UnavailableError: If the kernel cannot run the batch.
    """

    def __init__(self, passes: Passes, batch: ParameterBatch) -> None:
        check_batch(passes, batch)
        self.passes, self.batch = passes, batch
        self._copied_grads: list[Tensor] = []

    def begin(self, step: BatchStep) -> None:
        """Prepare a step. The batch must be unchanged, and gradients must have the layouts of their parameters."""
        addresses = step.gradient_addresses or array("Q", map(Tensor.data_ptr, step.grads))
        if 0 in addresses and any(
            not address and param.numel() for address, param in zip(addresses, self.batch.params, strict=True)
        ):
            # Gradients of zeros for which torch has allocated no memory.
            pairs = zip(self.batch.params, step.grads, strict=True)
            self._copied_grads = [torch.empty_like(param).copy_(grad) for param, grad in pairs]
            addresses = array("Q", map(Tensor.data_ptr, self._copied_grads))
        if step.rows is None:
            self.begin_at(addresses, step.coefficients)
        else:
            self.begin_captured(addresses, step.rows, step.skip, step.grad_factor)

    def begin_captured(
        self, grads: "array[int]", rows: Tensor, skip: Tensor | None, grad_factor: Tensor | None
    ) -> None:
        """Prepare a step whose scalars are on the device; see `BatchStep`.

        Args:
            grads: The addresses of the gradients.
            rows: The coefficients of each parameter, in float64.
            skip: A number in float32; if it is not 0, nothing is written. None for 0.
            grad_factor: The factor of all gradients in float32. None for 1.
        """
        raise NotImplementedError("kernels for the CPU take their scalars from the host")

    @abstractmethod
    def begin_at(self, grads: "array[int]", coefficients: Sequence[Any], repeated: int = 1) -> None:
        """Prepare a step with gradients by their addresses.

        Args:
            grads: The addresses of the gradients.
            coefficients: The scalars of the step.
            repeated: The number of times that the list of scalars is repeated to cover all parameters.
        """

    @abstractmethod
    def run_together(self, bound_kernels: Sequence[Any]) -> None:
        """Run the steps that have begun of this kernel and of others of its class, which share their reductions."""

    def end(self) -> None:
        """Free the temporaries of the step, and tell autograd that the parameters were written."""
        self._copied_grads = []
        if not torch.is_inference_mode_enabled():
            # As after any other change in place, a backward pass that needs the old values fails.
            torch.autograd.graph.increment_version(self.batch.params)


def run(bound_kernels: Sequence[BoundKernel]) -> None:
    """Take the steps that have begun, in place. The kernels share their reductions over the model."""
    bound_kernels[0].run_together(bound_kernels)
    for bound_kernel in bound_kernels:
        bound_kernel.end()


def have_same_reductions(bound_kernels: Sequence[BoundKernel]) -> bool:
    """Return True if kernels compute the same reductions over the model, in the same order, on one device."""
    first, *rest = bound_kernels
    return all(
        type(bound_kernel) is type(first)
        and bound_kernel.batch.device == first.batch.device
        and bound_kernel.passes.shared_reductions == first.passes.shared_reductions
        and len(bound_kernel.passes.calls) == len(first.passes.calls)
        for bound_kernel in rest
    )


def shared_row(coefficients: Sequence[Any]) -> bool:
    """Return True if all parameters have the same scalars."""
    return coefficients.count(coefficients[0]) == len(coefficients)


class Variant(NamedTuple):
    """A way to compile a source.

    Attributes:
        name: The name of the library in the cache. It depends on everything that chooses the code.
        build: Returns the library. The argument is the time of ``time.monotonic()`` at which it gives up.
    """

    name: str
    build: Callable[[float], bytes]


class Target(ABC):
    """A kind of processor, and the tools that make kernels for it.

    Attributes:
        key: Equal for targets that have the same kernels.
        where: The processor, as in "on the CPU".
        device: The device on which a new kernel is tried.
        tolerance: The difference from the loop on the CPU that a kernel may have, in units of the last place.
    """

    key: Hashable
    where: str
    device: torch.device
    tolerance: float = 0.0

    @abstractmethod
    def missing(self) -> str | None:
        """Return the reason why nothing can be compiled for this target; None if its tools are there."""

    @abstractmethod
    def source(self, passes: Passes) -> str:
        """Print passes in the language of the compiler.

        Raises:
            UnknownOperationError: If the target cannot compute them with the rounding of PyTorch.
        """

    @abstractmethod
    def variants(self, source: str) -> Sequence[Variant]:
        """Return the ways to compile a source, the best one first."""

    @abstractmethod
    def load(self, library: bytes, passes: Passes) -> Kernel:
        """Load a library that was made from passes.

        Raises:
            UnavailableError: If it cannot be loaded.
        """

    @abstractmethod
    def trial(self) -> AbstractContextManager[Any]:
        """Return a context in which a kernel is loaded and tried beside the work of other threads."""
