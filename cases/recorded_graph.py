"""A graph of operations, recorded on the CPU and replayed, as a CUDA graph is: no line of Python runs again."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that read a number on the host, which waits for a device, or bring one from there: a graph would freeze it.
_READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "unique", "_unique2", "masked_select")
_CREATES = ("lift_fresh", "lift_fresh_copy")


class HostAccessError(Exception):
    """A number would be read from a device or brought to it."""


class RecordedGraph(TorchDispatchMode):
    """Records the operations inside ``with graph:``. The memory of their results is that of the graph.

    Raises:
        HostAccessError: If an operation inside reads a number on the host, or creates a tensor from one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _READS or name in _CREATES:
            raise HostAccessError(str(func))
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Run all operations again on the same memory."""
        for func, args, kwargs, recorded in self.calls:
            repeated = func(*args, **kwargs)
            for old, new in zip(tree_leaves(recorded), tree_leaves(repeated), strict=True):
                # A view and an operation in place have their result where it was.
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)
