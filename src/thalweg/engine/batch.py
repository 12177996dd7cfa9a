"""Batch: tensors that step together, because one program serves them all."""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.program import Program
from thalweg.rules import row

# Other tensor classes may have no memory of their own.
_PLAIN = frozenset({Tensor, torch.nn.Parameter})


class Batch:
    """Parameters of one program, dtype and device, with what they remember: a list of tensors for each leaf.

    The ways of running write parameters and state in place. How these lie in memory is noted here, for kernels, and
    must be checked before each step (`unchanged`), since `param.data = ...` may change it at any time.
    """

    def __init__(self, program: Program, params: Sequence[Tensor], columns: dict[str, list[Tensor]]) -> None:
        self.program = program
        self.params = list(params)
        self.columns = columns
        self.dtype, self.device = params[0].dtype, params[0].device
        self.num_elements = sum(param.numel() for param in params)
        self.bound_at = self.addresses()
        self._sizes = self._all_sizes()
        self._numels = [param.numel() for param in params]
        self._strides = [param.stride() for param in params]
        self._dtypes = [self.dtype] * len(params)
        self._on_cpu = [params[0].is_cpu] * len(params)

    def state(self, k: int) -> Any:
        """What the parameter number `k` remembers, as a row."""
        return row(**{name: column[k] for name, column in self.columns.items()})

    def addresses(self) -> list[int]:
        """Where the parameters and then what they remember, column by column, lie in memory."""
        return list(map(Tensor.data_ptr, chain(self.params, *self.columns.values())))

    def overlaps(self) -> bool:
        """Whether two parameters share memory, so that their order matters."""
        spans = sorted((param.data_ptr(), param.data_ptr() + param.nbytes) for param in self.params)
        return any(end > start for (_, end), (start, _) in pairwise(spans))

    def _all_sizes(self) -> list[int]:
        return [tensor.nbytes for tensor in chain(self.params, *self.columns.values())]

    def unchanged(self) -> bool:
        """Whether everything lies in memory as it did when the batch was made, to the same size."""
        return (
            self.addresses() == self.bound_at
            and self._all_sizes() == self._sizes
            and list(map(Tensor.stride, self.params)) == self._strides
        )

    def why_not_raw(self) -> str | None:
        """Why what lies at the addresses must not be read or written directly; None if it may be."""
        for tensors in zip(self.params, *self.columns.values(), strict=True):
            if not all(type(tensor) in _PLAIN and tensor.layout == torch.strided for tensor in tensors):
                return "a parameter is of a tensor class of its own"
            if any(tensor.is_neg() or (tensor.numel() and not tensor.data_ptr()) for tensor in tensors):
                return "a parameter is a view that is yet to be computed"
            if len({(tensor.shape, tensor.stride(), tensor.device) for tensor in tensors}) > 1:
                return "parameter and state lie differently in memory"
        return "two parameters share memory" if self.overlaps() else None

    def lie_alike(self, grads: Sequence[Tensor]) -> bool:
        """Whether each gradient is plain memory of the shape, order and dtype of its parameter.

        Strides and number of elements say the shape; devices other than the CPU are not told apart. Comprehensions
        and maps, since this is done for every step of every tensor.
        """
        try:
            return (
                list(map(Tensor.stride, grads)) == self._strides
                and list(map(Tensor.numel, grads)) == self._numels
                and [grad.dtype for grad in grads] == self._dtypes
                and [grad.is_cpu for grad in grads] == self._on_cpu
                and True not in map(Tensor.is_neg, grads)
                and _PLAIN.issuperset(map(type, grads))
            )
        except RuntimeError:  # a sparse tensor has no strides
            return False


class Step(NamedTuple):
    """A batch, its gradients, and its scalars: one row for each parameter, the same object where they agree."""

    batch: Batch
    grads: Sequence[Tensor]
    rows: Sequence[Any]
    sparse: bool = False  # some gradients are


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
