"""No process survives its parent: the kernel ends it on Linux; elsewhere, and for its group, a pipe that reads its end.

This module imports the standard library alone: a fresh worker runs it before it imports torch.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue

STOP = b"stop"  # a request to leave the training that is running
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent(parent: int) -> None:
    """End this process when its parent ends, whatever ends it. At once if it has ended already.

    Only the kernel of Linux can be told so. On other systems only a parent that is gone by now is noticed.

    Args:
        parent: The process id of the parent, as the parent knows it.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was told
        os._exit(1)


def end_children_with_this_process() -> None:
    """Let all processes that are forked from this one, and from those, end with their parent."""
    forking: list[int] = []  # the parent, if its main thread forks: the kernel takes the end of the thread for its end

    def before() -> None:
        forking[:] = [os.getpid()] if threading.current_thread() is threading.main_thread() else []

    def after_in_child() -> None:
        if forking:
            end_with_parent(forking[0])

    os.register_at_fork(before=before, after_in_child=after_in_child)


def end_group() -> None:
    """End this process and all processes of its group, at once."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class Inbox:
    """The requests that the parent sends to a worker. A thread reads them, and ends the worker's group at their end.

    Args:
        connection: The pipe; only the parent holds its other end.
        at_end: Called when the parent is gone.
    """

    def __init__(self, connection: Connection, at_end: Callable[[], None] = end_group) -> None:
        self._connection, self._at_end = connection, at_end
        self._requests: SimpleQueue[bytes] = SimpleQueue()
        self._is_stopping = threading.Event()
        threading.Thread(target=self._read, name="thalweg-lifeline", daemon=True).start()

    def get(self) -> bytes:
        """Wait for the next request and return it."""
        return self._requests.get()

    def stop_requested(self) -> bool:
        """Return True if the parent has asked to leave the training of the last request."""
        return self._is_stopping.is_set()

    def _read(self) -> None:
        try:
            while True:
                request = self._connection.recv_bytes()
                if request == STOP:
                    self._is_stopping.set()
                else:
                    self._is_stopping.clear()
                    self._requests.put(request)
        except (EOFError, OSError):
            self._at_end()
