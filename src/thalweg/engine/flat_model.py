"""Flat model: all parameters of a model as one vector, and their state as vectors and stacks of vectors.

A rule over the whole model takes the same step for the vector as for its pieces, in far fewer operations. The entries
of the state become views of the vectors, so that checkpoints and users read them as before.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.plain_tensors import PLAIN_TENSOR_TYPES, write_count
from thalweg.engine.core.precision import compute_dtype
from thalweg.engine.core.shards import compute_reduction
from thalweg.engine.eager import loop
from thalweg.engine.eager.loop import TensorStep
from thalweg.engine.search_line import largest_abs, undisturbed
from thalweg.rules import record
from thalweg.rules.core.reductions import Products, Reduction, Replace, RequestGenerator

_ALIGNMENT = 16  # elements: every vector of a stack begins at a multiple of 64 bytes, so its sums round alike
_PROBE = torch.Size([2, 3])  # a shape that no number of state tensors has by chance


class FlatModel:
    """The parameters of a model as one vector.

    Args:
        items: The step of each parameter, for which ``unsupported_reason`` finds no reason.

    Attributes:
        params: The parameters.
        views: For each name of the state, the views of the vectors that must become the entries of the parameters.
    """

    def __init__(self, items: Sequence[TensorStep]) -> None:
        self.params = [item.param for item in items]
        self._program = items[0].program
        ends = list(accumulate(param.numel() for param in self.params))
        self._spans = list(zip([0, *ends[:-1]], ends, strict=True))
        self._padding = self.params[0].new_zeros(-ends[-1] % _ALIGNMENT)
        self._kinds = [(param.shape, param.dtype, param.device) for param in self.params]
        self._size = ends[-1] + len(self._padding)
        self._value = self.params[0].new_zeros(self._size)
        self._pieces = self._split(self._value)
        self._stacks: dict[int, _Stack] = {}  # by the address of their memory
        self._products: dict[tuple[int, int], _PairProducts] = {}
        self.views: dict[str, list[Tensor]] = {}
        self._state = record(**{name: self._join(name, items) for name in items[0].state._fields})

    def _split(self, vector: Tensor) -> list[Tensor]:
        """Return the piece of each parameter in a vector, or in a stack of vectors."""
        stacked = vector.shape[:-1]
        return [
            vector[..., start:end].view((*stacked, *param.shape))
            for param, (start, end) in zip(self.params, self._spans, strict=True)
        ]

    def _join(self, name: str, items: Sequence[TensorStep]) -> Tensor:
        """Return a state tensor of the vector, with the values of those of all parameters."""
        tensors = [getattr(item.state, name) for item in items]
        shape = self._program.layout(_PROBE)[name].shape(_PROBE)
        if not shape:  # a number, the same for all parameters of the model
            joined = tensors[0].new_zeros(())
            joined.copy_(torch.stack(tensors).amax())
            self.views[name] = [joined.view(()) for _ in tensors]
        else:
            joined = tensors[0].new_zeros(*shape[: len(shape) - len(_PROBE)], self._size)
            self.views[name] = self._split(joined)
            for view, tensor in zip(self.views[name], tensors, strict=True):
                view.copy_(tensor)
        if joined.dim() == 2:
            self._stacks[joined.data_ptr()] = _Stack(joined)
        return joined

    def gradients(self, params: Sequence[Tensor]) -> Tensor | None:
        """Return the gradients as a new vector, zeros for those that are None.

        Args:
            params: The user's parameters, which hold the gradients.

        Returns:
            The vector; None if a gradient is not plain memory of the shape, dtype and device of its parameter.
        """
        grads = [param.grad for param in params]
        for grad, kind in zip(grads, self._kinds, strict=True):
            if grad is not None and (
                type(grad) not in PLAIN_TENSOR_TYPES
                or grad.layout != torch.strided
                or (grad.shape, grad.dtype, grad.device) != kind
                or grad.is_neg()
            ):
                return None
        return self.joined(grads)

    def joined(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Return a tensor for each parameter as a new vector; zeros for None."""
        pieces = [
            (torch.zeros_like(param) if tensor is None else tensor).reshape(-1)
            for tensor, param in zip(tensors, self.params, strict=True)
        ]
        return torch.cat([*pieces, self._padding])

    def item(self, grad: Tensor, coefficients: Any) -> TensorStep:
        """Return the step of the vector with these gradients. The present values of the parameters are copied."""
        return TensorStep(self._program, self.joined(self.params), grad, self._state, coefficients)

    def run(self, generators: Sequence[RequestGenerator]) -> list[Any]:
        """Run the generator of the vector, and return its result."""
        (generator,) = generators
        result = None
        with undisturbed(self._value.device):
            while True:
                try:
                    request = generator.send(result)
                except StopIteration as stop:
                    return [stop.value]
                if isinstance(request, Replace):
                    result = self._replace(request)
                elif isinstance(request, Products):
                    result = self._inner_products(request)
                else:
                    assert isinstance(request, Reduction), "a model as a vector has no matrices"
                    result = compute_reduction(request, None)

    def _replace(self, request: Replace) -> Tensor:
        self._stacks[request.stack.data_ptr()].replace(request.index, request.tensor)
        return request.stack

    def _inner_products(self, request: Products) -> Tensor:
        if request.num_pairs is None:
            return loop.inner_products(request)
        addresses = request.stack.data_ptr(), request.tensor.data_ptr()
        if addresses not in self._products:
            self._products[addresses] = _PairProducts(*(self._stacks[address] for address in addresses))
        return self._products[addresses].of(len(request.stack), request.num_pairs)

    def product(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        """Return the inner product of two vectors."""
        return float(torch.dot(first[0], second[0]))

    def max_abs(self, tensors: Sequence[Tensor]) -> float:
        """Return the largest absolute value in a vector."""
        return largest_abs(tensors[0])

    def write(self, values: Sequence[Tensor]) -> None:
        """Write new values, as a vector, to the parameters."""
        (value,) = values
        self._value.copy_(value)
        torch._foreach_copy_(self.params, self._pieces)


class _Stack:
    """A stack of vectors that notes which of them were replaced.

    Attributes:
        stack: The stack.
        vectors: Its vectors, one by one.
        noted: Sets of indices, to which those of replaced vectors are added.
    """

    def __init__(self, stack: Tensor) -> None:
        self.stack = stack
        self.vectors = stack.unbind()
        self.noted: list[set[int]] = []
        self._version = write_count(stack)

    def replace(self, index: int, vector: Tensor) -> None:
        """Write a vector over another one."""
        self.follow()
        self.vectors[index].copy_(vector)
        self._version = write_count(self.stack)
        for indices in self.noted:
            indices.add(index)

    def follow(self) -> None:
        """Note all vectors as replaced if other code has written to the stack."""
        if (version := write_count(self.stack)) != self._version:
            self._version = version
            for indices in self.noted:
                indices.update(range(len(self.vectors)))


class _PairProducts:
    """The inner products of two histories, computed again only for vectors that were replaced.

    Those of a pair are computed by the same call whether the pair is new, or a checkpoint was loaded. So they have the
    same bits.
    """

    def __init__(self, first: _Stack, second: _Stack) -> None:
        self._first, self._second = first, second
        size = len(first.vectors)
        double = torch.float32 if first.vectors[0].device.type == "mps" else torch.float64
        self._transposed = first.vectors[0].new_zeros(size, size, dtype=double)
        self._columns = self._transposed.unbind()
        self._stale = set(range(size))
        first.noted.append(self._stale)
        second.noted.append(self._stale)

    def of(self, kept: int, num_pairs: int) -> Tensor:
        """Return the products of each kept vector of the first history with those of the second that are not older.

        Args:
            kept: The number of pairs that are kept.
            num_pairs: The number of pairs so far.
        """
        self._first.follow()
        self._second.follow()
        for index in [index for index in self._stale if index < kept]:
            number = num_pairs - 1 - (num_pairs - 1 - index) % kept  # of the pair at this index
            count = min(number + 1, len(self._columns))  # pairs that there were with it
            products = torch.mv(self._first.stack.narrow(0, 0, count), self._second.vectors[index])
            self._columns[index].narrow(0, 0, count).copy_(products)
            self._stale.discard(index)
        return self._transposed.narrow(0, 0, kept).narrow(1, 0, kept).t()


def unsupported_reason(items: Sequence[TensorStep]) -> str | None:
    """Return the reason why parameters cannot be one vector; None if they can."""
    if not items:
        return "no parameter has a gradient"
    if not any(item.param.numel() for item in items):
        return "the parameters have no elements"
    first = items[0]
    for item in items:
        if item.program.rounding != "nearest" or item.param.dtype != compute_dtype(item.param.dtype):
            return "parameters are rounded one by one"
        if item.shards is not None or type(item.param) not in PLAIN_TENSOR_TYPES or item.param.is_meta:
            return "a parameter is not plain memory"
        if (item.param.dtype, item.param.device) != (first.param.dtype, first.param.device):
            return "parameters have several dtypes or devices"
        if item.program != first.program:
            return "parameters have different settings"
        if any(tensor.dtype != item.param.dtype for tensor in item.state):
            return "state has another dtype than its parameter"
        if item.param.device.type == "cpu" and any(tensor.is_shared() for tensor in item.state):
            return "state is shared between processes"
    return None
