"""Step lock: one step of an optimizer at a time, whichever threads call it.

A step writes shared buffers (step counts, the arguments of kernels), so two at once would mix their numbers.
"""

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any
from weakref import WeakSet

_OWNERS: "WeakSet[Any]" = WeakSet()  # all optimizers that have a lock


def add_lock(optimizer: Any) -> None:
    """Give an optimizer a lock, unless it has one."""
    if "_step_lock" not in optimizer.__dict__:
        optimizer._step_lock = threading.RLock()  # reentrant, since a closure may call `step`
        _OWNERS.add(optimizer)


def one_at_a_time(step: Callable[..., Any]) -> Callable[..., Any]:
    """Make the calls of a method ``step(closure)`` from several threads wait for each other."""

    @wraps(step)
    def locked_step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        with self._step_lock:
            return step(self, closure)

    return locked_step


def _renew_locks() -> None:
    """Replace all locks in a forked child, where the thread that holds one does not exist."""
    for optimizer in list(_OWNERS):
        optimizer._step_lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)
