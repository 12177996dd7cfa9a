"""Gathered copies: whole parameters that FSDP may keep after a forward pass, which a write to a shard does not change.

The next forward pass would compute with the copies. A step follows a backward pass, which drops them. Before other
writes, as those of `optimizer.eval()`, they must be dropped, so that FSDP gathers the new values.
"""

import gc
import weakref
from collections.abc import Iterable
from typing import Any

from thalweg.engine.core.shards import is_dtensor, is_flattened


class GatheredCopies:
    """The gathered copies of all modules in this process that FSDP shards."""

    def __init__(self) -> None:
        self._modules: list[weakref.ref[Any]] = []

    def drop(self, params: Iterable[Any]) -> None:
        """Drop all copies, so that the next forward pass gathers the values that parameters then have.

        Args:
            params: The parameters that will be written to. Nothing happens if none of them is sharded.
        """
        if not any(is_dtensor(param) or is_flattened(param) for param in params):
            return
        if not any(module() is not None for module in self._modules):
            # A parameter does not know the module that gathers it. To look at all objects takes some 0.1 s, once.
            self._modules = [weakref.ref(candidate) for candidate in gc.get_objects() if _is_sharded_module(candidate)]
        for reference in self._modules:
            module = reference()
            if module is None:
                continue
            if hasattr(module, "reshard"):  # of `fully_shard`
                module.reshard()
            else:
                _reshard_flat(module._handle)


def _is_sharded_module(candidate: object) -> bool:
    """Return True for a module of `fully_shard` or `FullyShardedDataParallel`."""
    # Not isinstance, which calls the code of proxies; by name, since not every torch has these classes.
    return any(base.__name__ in ("FSDPModule", "FullyShardedDataParallel") for base in type(candidate).__mro__)


def _reshard_flat(handle: Any) -> None:
    """Do what `FullyShardedDataParallel` does after a backward pass. It has no public function for this."""
    has_run = handle is not None and hasattr(handle.flat_param, "_full_param_padded")
    if has_run and handle.uses_sharded_strategy and not handle.needs_unshard():
        handle.reshard(free_unsharded_flat_param=True)
        handle.post_reshard()
