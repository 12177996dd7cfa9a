"""Batch: tensors that step together, because one program serves them all."""

from array import array
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.memory_probe import CachedCheck, MemoryProbe
from thalweg.engine.core.program import Program
from thalweg.engine.core.shards import Shards
from thalweg.rules import record

# Other tensor classes may have no memory of their own.
PLAIN_TENSOR_TYPES = frozenset({Tensor, torch.nn.Parameter})


class ParameterBatch:
    """Parameters of one program, dtype and device, with what they remember: a list of tensors for each leaf.

    The ways of running write parameters and state in place. How these lie in memory is noted here, for kernels, and
    must be checked before each step (`unchanged`), since `param.data = ...` may change it at any time.
    """

    def __init__(
        self,
        program: Program,
        params: Sequence[Tensor],
        columns: dict[str, list[Tensor]],
        shards: Sequence[Shards | None] | None = None,
        watched: Sequence[Tensor] = (),
    ) -> None:
        """`watched` are tensors that must stay where they are, too."""
        self.program = program
        self.params = list(params)
        self.shards = shards or [None] * len(params)
        self.columns = columns
        self.dtype, self.device = params[0].dtype, params[0].device
        self.num_elements = sum(param.numel() for param in params)
        own = [*self.params, *chain.from_iterable(columns.values())]
        self._held = [*own, *watched]
        self._ids = array("Q", map(id, self._held))
        self._lay = self._lie()
        self._held_at = array("Q", map(Tensor.data_ptr, self._held))
        # Where the parameters and then what they remember, column by column, lie in memory.
        self.addresses = self._held_at[: len(own)]
        self.memory_probe: MemoryProbe | None = None  # by C, if a kernel runs the batch
        self._seen, self._grads_seen = CachedCheck(), CachedCheck()

    def state(self, k: int) -> Any:
        """What the parameter number `k` remembers, as a row."""
        return record(**{name: column[k] for name, column in self.columns.items()})

    def overlaps(self) -> bool:
        """Whether two parameters share memory, so that their order matters."""
        spans = sorted((param.data_ptr(), param.data_ptr() + param.nbytes) for param in self.params)
        return any(end > start for (_, end), (start, _) in pairwise(spans))

    def unchanged(self) -> bool:
        """Whether everything lies in memory as it did when the batch was made, to the same size."""
        return (
            self._seen.where(self.memory_probe, self._held, lambda: self._lie() == self._lay, self._ids)
            == self._held_at
        )

    def prefetch(self, records: "array[int]") -> None:
        """Bring what a step will look at into the cache, with the dictionaries of these ids."""
        if self.memory_probe is not None:
            self.memory_probe.prefetch(self._ids, records)

    def _lie(self) -> list[Any]:
        return [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in self._held]

    def why_not_raw(self) -> str | None:
        """Why what lies at the addresses must not be read or written directly; None if it may be."""
        for tensors in zip(self.params, *self.columns.values(), strict=True):
            if not all(type(tensor) in PLAIN_TENSOR_TYPES and tensor.layout == torch.strided for tensor in tensors):
                return "a parameter is of a tensor class of its own"
            if any(tensor.is_neg() or (tensor.numel() and not tensor.data_ptr()) for tensor in tensors):
                return "a parameter is a view that is yet to be computed"
            if any(not _lies_with(tensor, tensors[0]) for tensor in tensors):
                return "parameter and state lie differently in memory"
        return "two parameters share memory" if self.overlaps() else None

    def gradient_addresses(self, grads: Sequence[Tensor]) -> "array[int] | None":
        """Where the gradients lie, if each is plain memory of the shape, order, dtype and device of its parameter."""
        return self._grads_seen.where(self.memory_probe, grads, lambda: all(map(_alike, grads, self.params)))


class BatchStep(NamedTuple):
    """A batch, its gradients, and its scalars: one row for each parameter, the same object where they agree."""

    batch: ParameterBatch
    grads: Sequence[Tensor]
    rows: Sequence[Any]
    gradient_addresses: "array[int] | None" = None  # where they lie in memory, if that is known
    sparse: bool = False  # some gradients are


def _alike(grad: Tensor, param: Tensor) -> bool:
    return (
        type(grad) in PLAIN_TENSOR_TYPES
        and not grad.is_neg()
        and (grad.shape, grad.dtype, grad.device, grad.layout) == (param.shape, param.dtype, param.device, param.layout)
        # The layout first: a sparse tensor has no strides.
        and grad.stride() == param.stride()
    )


def _lies_with(leaf: Tensor, param: Tensor) -> bool:
    """Whether an entry of the state lies as its parameter does, or, if it has another shape, in one piece."""
    if leaf.device != param.device:
        return False
    return leaf.stride() == param.stride() if leaf.shape == param.shape else leaf.is_contiguous()


def unaliased(new: Sequence[Tensor], old: Sequence[Tensor]) -> list[Tensor]:
    """What a step made, ready to be written over what it was made from, in order.

    A rule may hand on an input as it is (the last parameter, say), which would be written before it is read.
    """
    places = {id(tensor): k for k, tensor in enumerate(old)}
    return [tensor if places.get(id(tensor), k) == k else tensor.clone() for k, tensor in enumerate(new)]


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory without gaps, in whatever order of its dimensions."""
    if tensor.layout != torch.strided:
        return False
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True
