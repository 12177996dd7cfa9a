"""The kernels of a text, bound to batches on the CPU and run by emulation: the least that a binding must do."""

import math
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import torch

from cases.emulated_cuda import FLAGS, EmulatedModule
from thalweg.engine.core.batch import BatchStep, ParameterBatch
from thalweg.engine.kernels.cuda import grid
from thalweg.engine.kernels.cuda.call import call_structure
from thalweg.engine.kernels.cuda.source import NUM_GRADS, cuda_source, launches
from thalweg.engine.kernels.passes import Passes


class EmulatedKernel:
    """A batch, bound to its kernels.

    Args:
        passes: The passes of its program.
        batch: The parameters.
        num_grads: The capacity of the text for gradients.
        flags: Flags of the compiler.
        tuning: The tuning of the text.
    """

    def __init__(
        self,
        passes: Passes,
        batch: ParameterBatch,
        num_grads: int = NUM_GRADS,
        flags: tuple[str, ...] = FLAGS,
        tuning: grid.Tuning = grid.DEFAULT_TUNING,
    ) -> None:
        self.passes, self.batch, self.num_grads = passes, batch, num_grads
        self.module = EmulatedModule(cuda_source(passes, num_grads, tuning), flags)
        self.launches = launches(passes)
        count = len(batch.params)
        tensors = [grid.sizes(passes, param.shape) for param in batch.params]
        pieces = [grid.num_chunks(passes, tensor, tuning) for tensor in tensors]
        self.first_chunks = list(accumulate(pieces, initial=0))
        self.chunks = array("i", chain.from_iterable((t, k) for t, many in enumerate(pieces) for k in range(many)))
        self.sizes = array("q", chain.from_iterable(tensors))
        # Columns of lengths, and so of addresses. What is read before it is written shows: NaN everywhere.
        columns = list(zip(*(grid.reduction_lengths(passes, tensor, tuning) for tensor in tensors), strict=True))
        lengths = list(chain.from_iterable(columns))
        self.buffer = array("d", [math.nan]) * (1 + sum(lengths))
        start = self.buffer.buffer_info()[0]
        ends = accumulate(lengths, initial=0)
        in_buffer = array("Q", (start + 8 * end for end, _ in zip(ends, lengths, strict=False)))
        # 1 is no address: gradients come with the call.
        self.at = batch.addresses[:count] + array("Q", [1]) * count + batch.addresses[count:] + in_buffer
        self.call = call_structure(len(passes.recording.coefficients), num_grads)()
        self.call.count = count
        for name in ("sizes", "chunks", "at"):
            setattr(self.call, name, getattr(self, name).buffer_info()[0])

    def begin(self, step: BatchStep, shared: "tuple[array[float], array[float]]", part: int, parts: int) -> None:
        """Write what a step needs into the call."""
        self.grads = [grad.data_ptr() for grad in step.grads]
        rows = step.coefficients
        if rows.count(rows[0]) == len(rows):
            self.call.rows = 0
            self.call.row[: len(rows[0])] = list(rows[0])
        else:
            self.rows = array("d", chain.from_iterable(rows))
            self.call.rows = self.rows.buffer_info()[0]
        self.call.model, self.call.parts = (numbers.buffer_info()[0] for numbers in shared)
        self.call.part, self.call.num_parts = part, parts

    def run(self, number: int, *, last: bool, backwards: bool = False) -> None:
        """Run the kernels of a pass; ``last`` for the last batch of those that share reductions."""
        count = len(self.batch.params)
        for launch in self.launches:
            if launch.number != number:
                continue
            if launch.extent in ("once", "shared"):
                if launch.extent == "once" or (last and self.call.num_parts > 1):
                    self.module.launch(launch.name, self.call, 1, backwards=backwards)
                continue
            for first in range(0, count, self.num_grads):
                end = min(first + self.num_grads, count)
                self.call.first_tensor, self.call.first_chunk = first, self.first_chunks[first]
                self.call.grad[: end - first] = self.grads[first:end]
                blocks = self.first_chunks[end] - self.first_chunks[first]
                if launch.extent == "slices":
                    blocks = launch.blocks_per_tensor * (end - first)
                self.module.launch(launch.name, self.call, blocks, backwards=backwards)


def run(kernels: Sequence[EmulatedKernel], steps: Sequence[BatchStep], *, backwards: bool = False) -> None:
    """Take a step of batches that share their reductions over the model."""
    passes = kernels[0].passes
    numbers = max(1, len(passes.model_reductions))
    model, parts = array("d", [math.nan]) * numbers, array("d", [math.nan]) * (numbers * len(kernels))
    model_numel = sum(kernel.batch.num_elements for kernel in kernels)
    for part, (kernel, step) in enumerate(zip(kernels, steps, strict=True)):
        kernel.begin(step, (model, parts), part, len(kernels))
        kernel.call.model_numel = model_numel
    for call in range(len(passes.calls)):
        for kernel in kernels:
            for number in kernel.passes.calls[call]:
                kernel.run(number, last=kernel is kernels[-1], backwards=backwards)


def make_batch(program: Any, params: Sequence[torch.Tensor]) -> ParameterBatch:
    """Return a batch of parameters at the start of their training."""
    states = [program.init(param) for param in params]
    return ParameterBatch(program, params, {name: [getattr(s, name) for s in states] for name in states[0]._fields})
