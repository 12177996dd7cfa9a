"""Graphs without a GPU: operations of torch are captured with their tensors, and replayed on the same memory.

A replay calls no Python of the captured function. Every operation repeats with the numbers of the capture, reads the
tensors of the capture and writes its results over theirs. So a replay differs from a call in the ways in which a
replay of a CUDA graph does: numbers of the host are frozen, and tensors that have been replaced are not seen.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

# Operations that wait for the device, copy from the host's memory, or have results whose shape depends on values.
FORBIDDEN = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "item")
CHANGES_SHAPE = ("squeeze_", "unsqueeze_", "t_", "transpose_", "swapdims_", "swapaxes_", "as_strided_", "detach_")


class _OperationLog(TorchDispatchMode):
    """Captures operations. What they write outside is saved, to be restored: a capture executes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}
        self._own_memory: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in FORBIDDEN:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        for tensor in _written(func, args, kwargs):
            memory = tensor.untyped_storage()
            if memory.data_ptr() not in self._own_memory:
                self.saved.setdefault(memory.data_ptr(), (tensor, _whole(tensor).clone()))
        # A later operation may change the shape of these objects in place, so others with the same memory are kept.
        kept = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
        result = func(*args, **kwargs)
        new = [tensor for tensor in _tensors(result) if tensor.untyped_storage().data_ptr() not in _addresses(kept)]
        # The tensors of a capture live as long as it does, so no address is used twice.
        self._own_memory |= {tensor.untyped_storage().data_ptr(): tensor for tensor in new}
        # A view of memory that stays in place needs no replay.
        if new or (_written(func, args, kwargs) and name not in CHANGES_SHAPE):
            self.operations.append((func, *kept, tree_map_only(Tensor, Tensor.detach, result) if new else None))
        return result


class EmulatedCapture:
    """The operations of functions on the CPU as graphs.

    Attributes:
        captured: Number of captures.
        replayed: Number of replays.
        warmed: Number of functions that were called before their capture.
        written: For each capture, the addresses outside of it that it writes.
    """

    def __init__(self) -> None:
        self.captured = self.replayed = self.warmed = 0
        self.written: list[set[int]] = []
        self.error: Exception | None = None  # raised by the next capture

    def warm_up(self, function: Callable[[], None]) -> None:
        self.warmed += 1
        function()

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        capture, random_state = _OperationLog(), torch.get_rng_state()
        try:
            with capture:
                function()
                if self.error is not None:
                    raise self.error
        finally:
            torch.set_rng_state(random_state)
            for tensor, before in capture.saved.values():
                _whole(tensor).copy_(before)
        self.captured += 1
        self.written.append(set(capture.saved))

        def replay() -> None:
            self.replayed += 1
            with torch.no_grad():
                for func, args, kwargs, captured in capture.operations:
                    results = func(*args, **kwargs)
                    if captured is not None:
                        for target, result in zip(_tensors(captured), _tensors(results), strict=True):
                            target.copy_(result)

        return replay

    def forget(self) -> None:
        """Nothing is kept here: a capture belongs to its replay."""


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _addresses(tree: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in _tensors(tree)}


def _whole(tensor: Tensor) -> Tensor:
    """Return all memory that a tensor lies in, as a vector."""
    numel = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((numel,), (1,), 0)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the tensors that an operation writes in place."""
    written = []
    for k, declared in enumerate(func._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.is_write:
            value = args[k] if k < len(args) else kwargs.get(declared.name)
            written += _tensors(value)
    return written
