"""Batch: parameters that step together because one program serves all of them."""

from array import array
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.core.memory_probe import CachedCheck, MemoryProbe
from thalweg.engine.core.plain_tensors import PLAIN_TENSOR_TYPES, address, addresses
from thalweg.engine.core.program import Program
from thalweg.engine.core.shards import Shards
from thalweg.engine.core.threads import num_threads
from thalweg.rules import record


class ParameterBatch:
    """Parameters of one program, dtype and device, with their state.

    Backends write parameters and state in place. Kernels use the addresses that are stored here. ``param.data = ...``
    may change them at any time, so ``unchanged`` must be called before each step.

    Args:
        program: The program of all parameters.
        params: The parameters; at least one.
        columns: A list of tensors for each name of the state, in the order of the parameters.
        shards: The placement of each parameter over processes; None for a parameter that is whole.
        extra_tensors: Tensors whose memory must not move either.

    Attributes:
        num_elements: The elements of all parameters.
        addresses: The addresses of the parameters, then of the state, column by column.
        memory_probe: Reads the layouts of all tensors in one call; None until a kernel is bound to the batch.
    """

    def __init__(
        self,
        program: Program,
        params: Sequence[Tensor],
        columns: dict[str, list[Tensor]],
        shards: Sequence[Shards | None] | None = None,
        extra_tensors: Sequence[Tensor] = (),
    ) -> None:
        self.program = program
        self.params = list(params)
        self.shards = shards or [None] * len(params)
        self.columns = columns
        self.dtype, self.device = params[0].dtype, params[0].device
        self.num_elements = sum(param.numel() for param in params)
        stepped = [*self.params, *chain.from_iterable(columns.values())]
        self._tensors = [*stepped, *extra_tensors]
        self._ids = array("Q", map(id, self._tensors))
        self._layouts = self._read_layouts()
        self._tensor_addresses = addresses(self._tensors)
        self.addresses = self._tensor_addresses[: len(stepped)]
        self.memory_probe: MemoryProbe | None = None
        self._layout_check, self._gradient_check = CachedCheck(), CachedCheck()

    def state(self, k: int) -> Any:
        """Return the state of parameter number ``k`` as a record."""
        return record(**{name: column[k] for name, column in self.columns.items()})

    def overlaps(self) -> bool:
        """Return True if two parameters, or their state, share memory, so that their order matters."""
        tensors = (tensor for tensor in chain(self.params, *self.columns.values()) if tensor.numel())
        starts = ((address(tensor), num_bytes(tensor)) for tensor in tensors)
        spans = sorted((start, start + length) for start, length in starts if start)
        return any(end > start for (_, end), (start, _) in pairwise(spans))

    def unchanged(self) -> bool:
        """Return True if every tensor has the address, shape, strides and dtype that it had when the batch was made."""
        return (
            self._layout_check.addresses_if_valid(
                self.memory_probe,
                self._tensors,
                lambda: self._read_layouts() == self._layouts,
                num_threads(self.num_elements),
                self._ids,
            )
            == self._tensor_addresses
        )

    def prefetch(self, records: "array[int]") -> None:
        """Bring the tensors of the batch, and the dictionaries with these ids, into the processor's cache."""
        if self.memory_probe is not None:
            self.memory_probe.prefetch(self._ids, records)

    def _read_layouts(self) -> list[Any]:
        return [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in self._tensors]

    def direct_access_problem(self) -> str | None:
        """Return the reason why the memory at the addresses must not be used directly; None if it may be."""
        for tensors in zip(self.params, *self.columns.values(), strict=True):
            if not all(type(tensor) in PLAIN_TENSOR_TYPES and tensor.layout == torch.strided for tensor in tensors):
                return "a parameter is of a tensor subclass"
            if any(tensor.is_neg() or (tensor.numel() and not address(tensor)) for tensor in tensors):
                return "a parameter is a lazy view"
            if any(not _has_matching_strides(tensor, tensors[0]) for tensor in tensors):
                return "parameter and state have different strides"
        return "two parameters share memory" if self.overlaps() else None

    def gradient_addresses(self, grads: Sequence[Tensor]) -> "array[int] | None":
        """Return the addresses of gradients.

        Args:
            grads: A gradient for each parameter.

        Returns:
            The addresses; None unless every gradient is plain memory of the shape, strides, dtype and device of its
            parameter.
        """
        return self._gradient_check.addresses_if_valid(
            self.memory_probe,
            grads,
            lambda: all(map(_has_same_layout, grads, self.params)),
            num_threads(self.num_elements),
        )


class BatchStep(NamedTuple):
    """One step of a batch.

    Attributes:
        batch: The parameters.
        grads: A gradient for each parameter.
        coefficients: A record of scalars for each parameter; the same object where the scalars are equal.
        gradient_addresses: The addresses of the gradients, if they are known and may be used directly.
        sparse: True if some gradients are sparse.
        mixed_dtypes: True if some gradients are of another dtype than the parameters. Kernels do not read them.
        rows: For a captured step: the coefficients on the device, of shape ``(parameters, coefficients)`` in float64.
        skip: A number in float32 on the device; if it is not 0, as `found_inf` of a GradScaler, the step does nothing.
        grad_factor: A number in float32 on the device by which all gradients are multiplied.
    """

    batch: ParameterBatch
    grads: Sequence[Tensor]
    coefficients: Sequence[Any]
    gradient_addresses: "array[int] | None" = None
    sparse: bool = False
    mixed_dtypes: bool = False
    rows: Tensor | None = None
    skip: Tensor | None = None
    grad_factor: Tensor | None = None

    def unscaled(self) -> "BatchStep":
        """Return the step with gradients that are multiplied by `grad_factor`, as ``GradScaler.unscale_`` does it."""
        if self.grad_factor is None:
            return self
        grads = [grad.clone() for grad in self.grads]
        found_inf = torch.zeros((), dtype=torch.float32, device=self.batch.device)  # the scaler has looked already
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for grad in grads:
            by_dtype.setdefault(grad.dtype, []).append(grad)
        for same in by_dtype.values():
            torch._amp_foreach_non_finite_check_and_unscale_(same, found_inf, self.grad_factor)
        return self._replace(grads=grads, gradient_addresses=None, grad_factor=None)

    def result(self, old: Tensor, new: Tensor) -> Tensor:
        """Return what is to be written over a tensor: the new values, or the old ones if the step is skipped."""
        return new if self.skip is None else torch.where(self.skip != 0, old, new.to(old.dtype))


def _has_same_layout(grad: Tensor, param: Tensor) -> bool:
    return (
        type(grad) in PLAIN_TENSOR_TYPES
        and not grad.is_neg()
        and (grad.shape, grad.dtype, grad.device, grad.layout) == (param.shape, param.dtype, param.device, param.layout)
        # The layout first: a sparse tensor has no strides.
        and grad.stride() == param.stride()
    )


def _has_matching_strides(entry: Tensor, param: Tensor) -> bool:
    """Return True if an entry of the state has its parameter's strides, or is contiguous if its shape is another."""
    if entry.device != param.device:
        return False
    return entry.stride() == param.stride() if entry.shape == param.shape else entry.is_contiguous()


def unaliased(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the results of a step, safe to be written over its inputs in order.

    A rule may return an input unchanged (the last parameter, say). Such a result would be overwritten before it is
    read, so it is cloned, unless it is written over itself.
    """
    positions = {id(tensor): k for k, tensor in enumerate(inputs)}
    return [tensor if positions.get(id(tensor), k) == k else tensor.clone() for k, tensor in enumerate(results)]


def num_bytes(tensor: Tensor) -> int:
    """Return the bytes from the first element of a tensor to the end of its last, gaps included.

    Example:
        >>> num_bytes(torch.zeros(2, 3)), num_bytes(torch.zeros(2, 3)[:, ::2])
        (24, 24)
    """
    if not tensor.numel():
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def is_dense(tensor: Tensor) -> bool:
    """Return True if a tensor fills its memory without gaps, in any order of its dimensions.

    Example:
        >>> is_dense(torch.zeros(2, 3).t()), is_dense(torch.zeros(2, 3)[:, ::2])
        (True, False)
    """
    if tensor.layout != torch.strided:
        return False
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True
