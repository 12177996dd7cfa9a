"""Written memory: the addresses that a step writes, and the gradients that lie there.

All gradients of a step are read before anything is written. Backends write at different times, so a gradient that
shares memory with a parameter or with state is copied first. Then every backend gives the same result.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain

import torch

from thalweg.engine.core.batch import BatchStep, ParameterBatch, num_bytes
from thalweg.engine.core.plain_tensors import address


class WrittenMemory:
    """The memory of the parameters and of the state of some batches, as sorted spans of addresses.

    Args:
        batches: The batches, whose tensors must not move.
    """

    def __init__(self, batches: Sequence[ParameterBatch]) -> None:
        tensors = chain.from_iterable(chain(batch.params, *batch.columns.values()) for batch in batches)
        self._starts, self._ends = array("Q"), array("Q")
        starts = ((start, num_bytes(tensor)) for tensor in tensors if (start := address(tensor)))
        for start, end in sorted((start, start + length) for start, length in starts):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(end, self._ends[-1])
            elif start < end:
                self._starts.append(start)
                self._ends.append(end)
        self._lengths = [array("Q", map(num_bytes, batch.params)) for batch in batches]
        self._separate: list[array[int] | None] = [None] * len(batches)  # addresses that were found to be separate

    def separate(self, k: int, step: BatchStep) -> BatchStep:
        """Return a step whose gradients lie in no memory that is written.

        Args:
            k: The number of the batch.
            step: Its step, with the addresses of the gradients if they may be used directly.
        """
        addresses, probe = step.gradient_addresses, step.batch.memory_probe
        if addresses is None or addresses == self._separate[k]:
            return step
        if probe is not None:
            is_shared = probe.meets(addresses, self._lengths[k], self._starts, self._ends)
        else:
            is_shared = any(map(self._meets, addresses, self._lengths[k]))
        if not is_shared:
            self._separate[k] = addresses
            return step
        with torch.enable_grad():  # a differentiable step needs their graph
            grads = [
                grad.clone() if self._meets(address, length) else grad
                for grad, address, length in zip(step.grads, addresses, self._lengths[k], strict=True)
            ]
        return step._replace(grads=grads, gradient_addresses=None)

    def _meets(self, address: int, length: int) -> bool:
        first = bisect_right(self._ends, address)  # the first span that ends behind the start of the piece
        return first < len(self._starts) and self._starts[first] < address + length
