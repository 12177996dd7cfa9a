"""A worker process from inside: it answers one request after another until its parent ends it."""

import faulthandler
import gc
import logging
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from thalweg.comparison.processes.lifeline import Inbox, end_children_with_this_process
from thalweg.comparison.processes.stopping import Stopped, stopped_when

SHARE_INTERVAL_S = 0.1  # at most one report of progress in this time
_OOM_SCORE = "500"  # of 1000: if memory runs out, the kernel ends a worker before the program that waits for it


@dataclass(frozen=True)
class Reply:
    """An answer of a worker.

    Attributes:
        kind: ``share`` while it works, then ``done``, ``stopped`` or ``failed``.
        value: The share that is done, the result, or the words of an error.
    """

    kind: str
    value: Any = None


Target = Callable[[Any, Callable[[float], None]], Any]
"""The work of a worker: from a request and a function that reports the share that is done, to a result or a Reply."""


def serve(
    target: Target, inbox: Inbox, replies: Connection, log_fd: int, *, parent_has_loaders: bool = False
) -> NoReturn:
    """Answer requests until the parent is gone.

    Args:
        target: Called with a request and a function that reports the share that is done; its result is the answer.
        inbox: The requests.
        replies: The pipe to the parent.
        log_fd: File descriptor of the file to which a crash writes where it happened.
        parent_has_loaders: True if this is a fork of a process with DataLoaders that have worker processes.
    """
    process_id = os.getpid()
    _prepare(log_fd)
    if parent_has_loaders:
        _leave_loaders_of_parent()
    gc.freeze()  # nothing of the parent's is collected here: its files, pipes and processes are the parent's to close
    end_children_with_this_process()
    with stopped_when(inbox.stop_requested):
        while True:
            request = pickle.loads(inbox.get())  # noqa: S301  (pickled by the parent)
            answer = _pickled(_answer(target, request, replies))
            if os.getpid() != process_id:  # a fork that the user's code made, and that has come back from it
                os._exit(1)
            replies.send_bytes(answer)


def _prepare(log_fd: int) -> None:
    """Make this process one that only its parent ends, whose output goes to stderr and whose crashes leave a line."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(OSError):
        os.dup2(2, 1)  # stdout carries results
    inherited = (sys.stdout, sys.stderr)
    sys.stdout = sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):  # a display of the parent's may have been locked at the fork
            if isinstance(handler, logging.StreamHandler) and handler.stream in inherited:
                handler.stream = sys.stderr
    with suppress(ImportError, ValueError, OSError):
        import resource  # is missing on systems that are not POSIX

        resource.setrlimit(
            resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1])
        )  # each takes gigabytes
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_OOM_SCORE)
    faulthandler.enable(log_fd, all_threads=False)
    if hasattr(signal, "SIGUSR2"):  # asked of one that hangs
        faulthandler.register(signal.SIGUSR2, log_fd, all_threads=False)


_LEFT: list[Any] = []


def _leave_loaders_of_parent() -> None:
    """Forget the worker processes of the parent's DataLoaders, which a fork must neither read from nor end."""
    from torch.utils.data import DataLoader

    for loader in gc.get_objects():
        if issubclass(type(loader), DataLoader) and loader._iterator is not None:  # proxies lie about their class
            _LEFT.append(loader._iterator)  # its end would end the processes
            loader._iterator = None


def _answer(target: Target, request: Any, replies: Connection) -> Reply:
    last_s = time.monotonic()

    def report_share(share: float) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > SHARE_INTERVAL_S:
            last_s = time.monotonic()
            replies.send_bytes(pickle.dumps(Reply("share", share)))

    try:
        result = target(request, report_share)
        return result if isinstance(result, Reply) else Reply("done", result)
    except Stopped:
        return Reply("stopped")
    except BaseException as error:  # sys.exit and all else that the user's code may raise
        return Reply("failed", f"{type(error).__name__}: {error}")


def _pickled(reply: Reply) -> bytes:
    try:
        return pickle.dumps(reply)
    except Exception as error:  # objects that cannot be pickled raise many kinds of error
        return pickle.dumps(Reply("failed", f"its result cannot be sent: {type(error).__name__}: {error}"))
