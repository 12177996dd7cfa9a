"""Kernel: a compiled step, bound to a batch of parameters, and run."""

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
from thalweg.engine.kernels.passes import Passes
from thalweg.rules import Max, Mean
from thalweg.rules.core.reductions import Reduction

# Fewer elements are stepped by one thread before a second one has woken up.
_WORTH_THREADS = 1 << 15


# What a kernel may keep beside the state, for sums: bytes. Rows and columns of 3x3 filters would take more than these.
_MOST_ROOM = 64_000_000


class UnavailableError(Exception):
    """A program has no kernel, and will have none."""


class Kernel:
    """The compiled step of one program, for parameters of one dtype."""

    def __init__(self, path: str, passes: Passes) -> None:
        self.memory_probe = MemoryProbe(path)
        self.passes = passes
        self._step = ctypes.CDLL(path).step
        self._step.restype = None
        self._step.argtypes = [*[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2, ctypes.c_void_p]

    def __call__(
        self,
        which: range,
        sizes: "array[int]",
        addresses: "array[int]",
        rows: "array[float]",
        row_stride: int,
        threads: int,
        model: "array[float]",
    ) -> None:
        """Run some passes over tensors of these sizes; `c_source` tells the order of the arguments."""
        pointers = (values.buffer_info()[0] for values in (sizes, addresses, rows))
        count = len(sizes) // 4
        self._step(which[0], which[-1], count, *pointers, row_stride, threads, model.buffer_info()[0])


class BoundKernel:
    """A kernel, bound to a batch."""

    def __init__(self, kernel: Kernel, batch: ParameterBatch) -> None:
        _check(kernel.passes, batch)
        self.kernel, self.batch = kernel, batch
        batch.memory_probe = kernel.memory_probe
        passes = kernel.passes
        sizes = [passes.sizes(param.shape or (1,)) for param in batch.params]
        self._sizes = array("q", chain.from_iterable(sizes))
        # Room for answers, and for what blocks make for them: columns of addresses into one vector.
        room = [
            [length(answer, each) for each in sizes]
            for answer in passes.answers
            for length in (passes.num_results, passes.num_partial)
        ]
        lengths = list(chain.from_iterable(room))
        if 8 * sum(lengths) > _MOST_ROOM:
            raise UnavailableError(f"its sums would take {8e-6 * sum(lengths):.0f} MB")
        self._room = torch.empty(sum(lengths), dtype=torch.float64, device="cpu")
        ends = accumulate(lengths, initial=0)
        answers_at = array("Q", (self._room.data_ptr() + 8 * end for end, _ in zip(ends, lengths, strict=False)))
        count = len(batch.params)
        self._addresses = batch.addresses[:count] + array("Q", bytes(8 * count)) + batch.addresses[count:] + answers_at
        self._made: list[Tensor] = []

    def begin(self, step: BatchStep) -> None:
        """Make a step ready: the batch must be unchanged, and gradients lie as their parameters do."""
        addresses = step.gradient_addresses or array("Q", map(Tensor.data_ptr, step.grads))
        if 0 in addresses and any(not one and size for one, size in zip(addresses, self._sizes[3::4], strict=True)):
            # Zeros for which torch has made no memory.
            each = zip(self.batch.params, step.grads, strict=True)
            self._made = [torch.empty_like(one).copy_(grad) for one, grad in each]
            addresses = array("Q", map(Tensor.data_ptr, self._made))
        self.begin_at(addresses, step.rows)

    def begin_at(self, grads: "array[int]", rows: Sequence[Any], repeated: int = 1) -> None:
        """The same, with gradients by their addresses, and rows that come again and again."""
        count = len(self.batch.params)
        self._addresses[count : 2 * count] = grads
        shared = rows.count(rows[0]) == len(rows)
        self._rows = array("d", rows[0] if shared else chain.from_iterable(rows)) * (1 if shared else repeated)
        self._row_stride = 0 if shared else len(rows[0])

    def run(self, which: range, model: "array[float]") -> None:
        """Run some passes of the step that has begun; `model` has the answers over the model, and takes new ones."""
        threads = torch.get_num_threads() if self.batch.num_elements >= _WORTH_THREADS else 1
        self.kernel(which, self._sizes, self._addresses, self._rows, self._row_stride, threads, model)

    def end(self) -> None:
        """Let go of what was made for the step, and say that parameters were written."""
        self._made = []
        if not torch.is_inference_mode_enabled():
            # Autograd is told, as of every other change in place: a backward pass that needs the old values fails.
            torch.autograd.graph.increment_version(self.batch.params)


def run(bound_kernels: Sequence[BoundKernel]) -> None:
    """Take the steps that have begun in place. They share their answers over the model."""
    passes = bound_kernels[0].kernel.passes
    model = array("d", bytes(8 * len(passes.shared)))
    for number in range(len(passes.calls)):
        made = []
        for bound_kernel in bound_kernels:
            made.append(array("d", model))
            bound_kernel.run(bound_kernel.kernel.passes.calls[number], made[-1])
        for k, (asked_in, kind) in enumerate(passes.shared):
            if asked_in == number:
                model[k] = _over_all(kind, [one[k] for one in made], bound_kernels)
    for bound_kernel in bound_kernels:
        bound_kernel.end()


def _over_all(kind: type[Reduction], made: Sequence[float], bound_kernels: Sequence[BoundKernel]) -> float:
    if kind is Max:
        return math.nan if any(map(math.isnan, made)) else max(made)
    total = sum(made)
    return total / sum(bound_kernel.batch.num_elements for bound_kernel in bound_kernels) if kind is Mean else total


def agree(bound_kernels: Sequence[BoundKernel]) -> bool:
    """Whether kernels ask for the same over the model, in the same order."""
    first, *others = (bound_kernel.kernel.passes for bound_kernel in bound_kernels)
    return all((one.shared, len(one.calls)) == (first.shared, len(first.calls)) for one in others)


def _check(passes: Passes, batch: ParameterBatch) -> None:
    """Raise UnavailableError unless all that lies in memory is what the recording took it for."""
    leaves = passes.recording.state
    for param in batch.params:
        if passes.axes != "m" and not param.is_contiguous():
            raise UnavailableError("sums along dimensions need contiguous parameters")
        if not param.numel() and any(answer.kind is Max for answer in passes.answers):
            raise UnavailableError("a parameter without elements has no largest one")
        layout, sizes = batch.program.layout(param.shape), passes.sizes(param.shape or (1,))
        if list(layout) != list(leaves) or any(
            layout[name].shape(param.shape).numel() != passes.numel(value, sizes) for name, value in leaves.items()
        ):
            raise UnavailableError("what is remembered depends on the sizes of a parameter")
    for name, column in batch.columns.items():
        if any(entry.dtype != leaves[name].dtype for entry in column):
            raise UnavailableError(f"{name} is remembered in a dtype of its own")


def why_not(batch: ParameterBatch) -> str | None:
    """Why no kernel could run a batch, as far as can be told without making one; None if one could."""
    rule = batch.program.rule
    if rule.traits.needs_whole_matrices:
        return f"{rule.name} multiplies whole matrices"
    if batch.device.type != "cpu":
        return f"kernels are for the CPU, not for {batch.device.type}"
    if rule.traits.scope != "elementwise" and batch.dtype == torch.float64:
        # Which order kernels choose; in float32 sums are made in double precision, where it does not show.
        return f"{rule.name} makes sums, which in float64 depend on their order"
    if rule.traits.scope != "elementwise" and any(batch.shards):
        return f"{rule.name} makes sums over tensors that are spread over processes"
    for param in batch.params:
        if not is_dense(param):
            return "a parameter has gaps in memory"
        if batch.program.needs_index and not param.is_contiguous():
            return "stochastic rounding numbers the elements of contiguous parameters"
    return batch.why_not_raw()
