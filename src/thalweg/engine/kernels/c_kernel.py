"""C kernel: the compiled C step of a program, bound to a batch of parameters on the CPU."""

import ctypes
import math
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, partial
from itertools import accumulate, chain
from time import monotonic
from typing import Any

import torch

from thalweg.engine.core import memory_probe
from thalweg.engine.core.batch import ParameterBatch
from thalweg.engine.core.memory_probe import MemoryProbe
from thalweg.engine.core.threads import num_threads
from thalweg.engine.kernels import c_compiler, library_cache
from thalweg.engine.kernels.c_source import c_source
from thalweg.engine.kernels.kernel import MAX_REDUCTION_BYTES, BoundKernel, Kernel, Target, Variant, shared_row
from thalweg.engine.kernels.kernel_spec import UnavailableError
from thalweg.engine.kernels.passes import Passes
from thalweg.rules import Max, Mean, Norm
from thalweg.rules.core.reductions import Reduction


class CKernel(Kernel):
    """The compiled step of one program, for parameters of one dtype.

    Args:
        library: The loaded library.
        passes: The passes that it was printed from.
    """

    def __init__(self, library: ctypes.CDLL, passes: Passes) -> None:
        super().__init__(passes)
        self.memory_probe = MemoryProbe(library)
        self._step = library.step
        self._step.restype = None
        self._step.argtypes = [*[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2, ctypes.c_void_p]

    def bind(self, batch: ParameterBatch) -> "BoundCKernel":
        """Return the kernel with the addresses of a batch."""
        return BoundCKernel(self, batch)

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


class BoundCKernel(BoundKernel):
    """A C kernel with the addresses of a batch.

    Args:
        kernel: The kernel.
        batch: The parameters.

    Raises:
        UnavailableError: If the kernel cannot run the batch.
    """

    def __init__(self, kernel: CKernel, batch: ParameterBatch) -> None:
        super().__init__(kernel.passes, batch)
        self.kernel = kernel
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
        if 8 * sum(lengths) > MAX_REDUCTION_BYTES:
            raise UnavailableError(f"its sums would take {8e-6 * sum(lengths):.0f} MB")
        self._buffer = torch.empty(sum(lengths), dtype=torch.float64, device="cpu")
        ends = accumulate(lengths, initial=0)
        in_buffer = array("Q", (self._buffer.data_ptr() + 8 * end for end, _ in zip(ends, lengths, strict=False)))
        count = len(batch.params)
        self._addresses = batch.addresses[:count] + array("Q", bytes(8 * count)) + batch.addresses[count:] + in_buffer

    def begin_at(self, grads: "array[int]", coefficients: Sequence[Any], repeated: int = 1) -> None:
        """Prepare a step with gradients by their addresses."""
        count = len(self.batch.params)
        self._addresses[count : 2 * count] = grads
        shared = shared_row(coefficients)
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

    def run_together(self, bound_kernels: Sequence["BoundCKernel"]) -> None:
        """Run the steps that have begun of this kernel and of others, which share their reductions."""
        passes = self.passes
        model = array("d", bytes(8 * len(passes.shared_reductions)))
        for call in range(len(passes.calls)):
            partials = []
            for bound_kernel in bound_kernels:
                partials.append(array("d", model))
                bound_kernel.run(bound_kernel.passes.calls[call], partials[-1])
            for k, (number, kind, _) in enumerate(passes.shared_reductions):
                if number == call:
                    model[k] = _reduce(kind, [partial[k] for partial in partials], bound_kernels)


def _reduce(kind: type[Reduction], partials: Sequence[float], bound_kernels: Sequence[BoundKernel]) -> float:
    if kind is Max:
        return math.nan if any(map(math.isnan, partials)) else max(partials)
    total = sum(partials)
    if kind is Norm:
        return math.sqrt(total)
    return total / sum(bound_kernel.batch.num_elements for bound_kernel in bound_kernels) if kind is Mean else total


class CTarget(Target):
    """The CPU, with a C compiler."""

    key = "cpu"
    where = "on the CPU"
    device = torch.device("cpu")

    def missing(self) -> str | None:
        """Return the reason why nothing can be compiled; None if there is a C compiler."""
        if c_compiler.compiler() is None:
            return "no C compiler was found (cc, gcc, clang, or the command in CC)"
        return None

    def source(self, passes: Passes) -> str:
        """Print passes as C."""
        return c_source(passes)

    def variants(self, source: str) -> list[Variant]:
        """Return how a source is compiled: with OpenMP or, if that fails, without."""
        return [
            Variant(
                c_compiler.library_name(source, parallel=parallel),
                partial(c_compiler.build, source, parallel=parallel),
            )
            for parallel in (True, False)
        ]

    def load(self, library: bytes, passes: Passes) -> CKernel:
        """Load a library that was made from passes."""
        try:
            return CKernel(library_cache.load(library), passes)
        except (OSError, AttributeError) as error:
            raise UnavailableError(f"the kernel cannot be loaded: {error}") from error

    def trial(self) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()


@cache
def separate_memory_probe() -> MemoryProbe | None:
    """Return the memory probe in a library by itself, for parameters on other devices; None without a compiler."""
    for variant in CTarget().variants(memory_probe.C_SOURCE):
        with suppress(OSError, AttributeError):
            if library := library_cache.read(variant.name):
                return MemoryProbe(library_cache.load(library))
        with suppress(OSError, AttributeError, UnavailableError):
            library = variant.build(monotonic() + c_compiler.TIME_LIMIT_S)
            probe = MemoryProbe(library_cache.load(library))
            library_cache.keep(variant.name, library)
            return probe
    return None
