"""Kernel: the compiled C step of a program, bound to a batch of parameters on the CPU, and run."""

import ctypes
import math
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep, ParameterBatch, is_dense
from thalweg.engine.core.memory_probe import MemoryProbe
from thalweg.engine.core.threads import num_threads
from thalweg.engine.kernels.kernel_spec import UnavailableError, check_batch
from thalweg.engine.kernels.passes import Passes
from thalweg.rules import Max, Mean, Norm
from thalweg.rules.core.reductions import Reduction

# Bytes that a bound kernel may hold beside the state, for sums. The rows and columns of 3x3 filters would take more.
_MAX_REDUCTION_BYTES = 64_000_000


class Kernel:
    """The compiled step of one program, for parameters of one dtype.

    Args:
        library: The loaded library.
        passes: The passes that it was printed from.
    """

    def __init__(self, library: ctypes.CDLL, passes: Passes) -> None:
        self.memory_probe = MemoryProbe(library)
        self.passes = passes
        self._step = library.step
        self._step.restype = None
        self._step.argtypes = [*[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2, ctypes.c_void_p]

    def __call__(
        self,
        numbers: range,
        sizes: "array[int]",
        addresses: "array[int]",
        coefficients: "array[float]",
        row_stride: int,
        threads: int,
        model: "array[float]",
    ) -> None:
        """Run some passes over tensors.

        Args:
            numbers: The numbers of the passes.
            sizes: Batches, rows, columns and elements of each tensor.
            addresses: The addresses of all tensors, column by column; ``c_source`` lists the columns.
            coefficients: The scalars of the step, a row for each tensor or one row for all.
            row_stride: The length of a row; 0 if there is one row for all.
            threads: The number of threads.
            model: The results of reductions over the model. Those of earlier calls are read, new ones are written.
        """
        pointers = (values.buffer_info()[0] for values in (sizes, addresses, coefficients))
        count = len(sizes) // 4
        self._step(numbers[0], numbers[-1], count, *pointers, row_stride, threads, model.buffer_info()[0])


class BoundKernel:
    """A kernel with the addresses of a batch.

    Args:
        kernel: The kernel.
        batch: The parameters.

    Raises:
        UnavailableError: If the kernel cannot run the batch.
    """

    def __init__(self, kernel: Kernel, batch: ParameterBatch) -> None:
        check_batch(kernel.passes, batch)
        self.kernel, self.batch = kernel, batch
        batch.memory_probe = kernel.memory_probe
        passes = kernel.passes
        sizes = [passes.sizes(param.shape or (1,)) for param in batch.params]
        self._sizes = array("q", chain.from_iterable(sizes))
        # The results and partial results of reductions: columns of addresses into one buffer.
        columns = [
            [length(reduction, tensor_sizes) for tensor_sizes in sizes]
            for reduction in passes.reductions
            for length in (passes.num_results, passes.num_partials)
        ]
        lengths = list(chain.from_iterable(columns))
        if 8 * sum(lengths) > _MAX_REDUCTION_BYTES:
            raise UnavailableError(f"its sums would take {8e-6 * sum(lengths):.0f} MB")
        self._buffer = torch.empty(sum(lengths), dtype=torch.float64, device="cpu")
        ends = accumulate(lengths, initial=0)
        in_buffer = array("Q", (self._buffer.data_ptr() + 8 * end for end, _ in zip(ends, lengths, strict=False)))
        count = len(batch.params)
        self._addresses = batch.addresses[:count] + array("Q", bytes(8 * count)) + batch.addresses[count:] + in_buffer
        self._copied_grads: list[Tensor] = []

    def begin(self, step: BatchStep) -> None:
        """Prepare a step. The batch must be unchanged, and gradients must have the layouts of their parameters."""
        addresses = step.gradient_addresses or array("Q", map(Tensor.data_ptr, step.grads))
        if 0 in addresses and any(
            not address and size for address, size in zip(addresses, self._sizes[3::4], strict=True)
        ):
            # Gradients of zeros for which torch has allocated no memory.
            pairs = zip(self.batch.params, step.grads, strict=True)
            self._copied_grads = [torch.empty_like(param).copy_(grad) for param, grad in pairs]
            addresses = array("Q", map(Tensor.data_ptr, self._copied_grads))
        self.begin_at(addresses, step.coefficients)

    def begin_at(self, grads: "array[int]", coefficients: Sequence[Any], repeated: int = 1) -> None:
        """Prepare a step with gradients by their addresses.

        Args:
            grads: The addresses of the gradients.
            coefficients: The scalars of the step.
            repeated: The number of times that the list of scalars is repeated to cover all parameters.
        """
        count = len(self.batch.params)
        self._addresses[count : 2 * count] = grads
        shared = coefficients.count(coefficients[0]) == len(coefficients)
        self._coefficients = array("d", coefficients[0] if shared else chain.from_iterable(coefficients)) * (
            1 if shared else repeated
        )
        self._row_stride = 0 if shared else len(coefficients[0])

    def run(self, numbers: range, model: "array[float]") -> None:
        """Run some passes of the step that has begun.

        Args:
            numbers: The numbers of the passes.
            model: The results of reductions over the model, read and written.
        """
        threads = num_threads(self.batch.num_elements)
        self.kernel(numbers, self._sizes, self._addresses, self._coefficients, self._row_stride, threads, model)

    def end(self) -> None:
        """Free the temporaries of the step, and tell autograd that the parameters were written."""
        self._copied_grads = []
        if not torch.is_inference_mode_enabled():
            # As after any other change in place, a backward pass that needs the old values fails.
            torch.autograd.graph.increment_version(self.batch.params)


def run(bound_kernels: Sequence[BoundKernel]) -> None:
    """Take the steps that have begun, in place. The kernels share their reductions over the model."""
    passes = bound_kernels[0].kernel.passes
    model = array("d", bytes(8 * len(passes.shared_reductions)))
    for call in range(len(passes.calls)):
        partials = []
        for bound_kernel in bound_kernels:
            partials.append(array("d", model))
            bound_kernel.run(bound_kernel.kernel.passes.calls[call], partials[-1])
        for k, (number, kind, _) in enumerate(passes.shared_reductions):
            if number == call:
                model[k] = _reduce(kind, [partial[k] for partial in partials], bound_kernels)
    for bound_kernel in bound_kernels:
        bound_kernel.end()


def _reduce(kind: type[Reduction], partials: Sequence[float], bound_kernels: Sequence[BoundKernel]) -> float:
    if kind is Max:
        return math.nan if any(map(math.isnan, partials)) else max(partials)
    total = sum(partials)
    if kind is Norm:
        return math.sqrt(total)
    return total / sum(bound_kernel.batch.num_elements for bound_kernel in bound_kernels) if kind is Mean else total


def have_same_reductions(bound_kernels: Sequence[BoundKernel]) -> bool:
    """Return True if kernels compute the same reductions over the model, in the same order."""
    first, *rest = (bound_kernel.kernel.passes for bound_kernel in bound_kernels)
    return all(
        (passes.shared_reductions, len(passes.calls)) == (first.shared_reductions, len(first.calls)) for passes in rest
    )


def unsupported_reason(batch: ParameterBatch) -> str | None:
    """Return the reason why no kernel can run a batch; None if a kernel may.

    The kernel itself may still be unavailable; that is known once its program is recorded.
    """
    rule = batch.program.rule
    if rule.traits.needs_whole_matrices:
        return f"{rule.name} multiplies whole matrices"
    if batch.device.type != "cpu":
        return f"kernels run on the CPU, not on {batch.device.type}"
    if rule.traits.scope != "elementwise" and batch.dtype == torch.float64:
        # Kernels sum in another order; in float32, sums are made in double precision, where the order does not show.
        return f"{rule.name} makes sums, and in float64 they depend on their order"
    if rule.traits.scope != "elementwise" and any(batch.shards):
        return f"{rule.name} makes sums over tensors that are split over processes"
    for param in batch.params:
        if not is_dense(param):
            return "a parameter has gaps in memory"
        if batch.program.needs_index and not param.is_contiguous():
            return "stochastic rounding needs contiguous parameters"
    return batch.direct_access_problem()
