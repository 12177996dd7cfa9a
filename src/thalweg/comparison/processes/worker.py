"""A worker process, seen from its parent: a fork of this process where that is safe, else a fresh one.

A fork costs milliseconds, shares the memory of its parent, and needs nothing to be pickled but requests and results.
It is safe if no other thread and no accelerator is at work in this process; see ``why_no_fork``.
"""

import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing import active_children, current_process, get_context
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, Protocol

from thalweg.comparison.processes.lifeline import STOP, Inbox, end_with_parent
from thalweg.comparison.processes.serving import Reply, Target, serve
from thalweg.comparison.processes.stopping import interrupts_delayed
from thalweg.engine.core import devices
from thalweg.tasks.files import FILE_MODULE
from thalweg.tasks.user_code import is_users_file

_NAME = "thalweg-worker"
# Names of threads that hold no lock that a fork needs: ours, and those of multiprocessing's queues.
_FORKABLE_THREADS = ("thalweg-", "QueueFeederThread")
_FORKABLE_MODULES = ("rich.", "tqdm.")  # modules of such threads: displays of progress
_FRESH_MAIN = Path(__file__).with_name("fresh_main.py")
_DUMP_S, _END_S = 20.0, 10.0  # to write where a worker hangs; to end after SIGKILL


class WorkerDied(Exception):  # noqa: N818  (it is an event)
    """A worker ended before it had answered. The message says how, and in which line if that is known."""


class _Process(Protocol):
    """A process of `multiprocessing` or of `subprocess`."""

    pid: int

    def exit_code(self) -> int | None: ...
    def wait(self, seconds: float) -> None: ...


def why_no_fork() -> str:
    """Return the reason why this process cannot be forked safely; empty if it can.

    Example:
        >>> from thalweg.comparison.processes.worker import why_no_fork
        >>> isinstance(why_no_fork(), str)
        True
    """
    if sys.platform != "linux":
        return f"forks are not safe on {sys.platform}"
    if any(device.type != "cpu" for device in devices.available()):
        return "this machine has an accelerator, whose libraries do not survive a fork"
    if current_process().daemon:
        return "this process is a daemon of multiprocessing, which may have no children"
    busy = next((thread for thread in threading.enumerate() if not _is_forkable(thread)), None)
    return "" if busy is None else f"this process has another thread ({busy.name})"


def _is_forkable(thread: threading.Thread) -> bool:
    return (
        thread is threading.current_thread()
        or thread.name.startswith(_FORKABLE_THREADS)
        or type(thread).__module__.startswith(_FORKABLE_MODULES)
    )


class Worker:
    """A worker process. It ends with this process, whatever ends that, and takes all that it has started along.

    Args:
        target: Called in the worker with each request, and with a function to report the share that is done.
        is_fork: True to fork this process. Otherwise ``target`` is pickled.
        siblings: The other workers, whose pipes a fork must not keep open.
    """

    def __init__(self, target: Target, *, is_fork: bool, siblings: Iterable["Worker"] = ()) -> None:
        first = None if is_fork else first_request(target)
        request_end, self._requests = Pipe(duplex=False)
        self.replies, reply_end = Pipe(duplex=False)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the worker)
        start = _Forked if is_fork else _Fresh
        with interrupts_delayed():
            inherited = [self._requests, self.replies]
            inherited += [end for worker in siblings for end in (worker._requests, worker.replies)]
            self._process: _Process = start(target, request_end, reply_end, self._log.fileno(), inherited)
        request_end.close()
        reply_end.close()
        if first is not None:
            self.send(first)

    def send(self, request: bytes) -> None:
        """Send a pickled request. A worker that has ended answers by ``receive``."""
        with suppress(OSError):
            self._requests.send_bytes(request)

    def stop(self) -> None:
        """Ask the worker to leave what it does at the next evaluation."""
        self.send(STOP)

    def receive(self) -> Reply:
        """Return the next reply; to be called when ``wait_for_replies`` has named this worker.

        Raises:
            WorkerDied: If the worker has ended.
        """
        with suppress(EOFError, OSError):
            # A process that outlives the worker may hold its pipe open: then it has no end.
            if not self.has_ended() or self.replies.poll():
                reply: Reply = pickle.loads(self.replies.recv_bytes())  # noqa: S301  (pickled by our worker)
                return reply
        self._process.wait(_END_S)
        raise WorkerDied(self._describe_end())

    def has_ended(self) -> bool:
        """Return True if the process has ended."""
        return self._process.exit_code() is not None

    def where(self) -> str:
        """Return the line of the user's code that a worker is in, as ``" (at FILE:LINE)"``; empty if unknown."""
        if hasattr(signal, "SIGUSR2"):
            size = os.fstat(self._log.fileno()).st_size
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGUSR2)
            deadline = time.monotonic() + _DUMP_S
            while self._line_in_log(size) == "" and time.monotonic() < deadline:
                time.sleep(0.005)
            return self._line_in_log(size)
        return ""

    def kill(self) -> None:
        """End the process and all processes of its group, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if not self.has_ended():
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)  # it may have left its group
        self._process.wait(_END_S)
        for end in (self._requests, self.replies, self._log):
            end.close()

    def _describe_end(self) -> str:
        code = self._process.exit_code()
        if code is None:
            return "the worker process closed its pipe"
        if code >= 0:
            return f"it ended the process with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        reason = ", as the system does if memory runs out" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{reason}{self._line_in_log()}"

    def _line_in_log(self, start: int = 0) -> str:
        """Return the innermost line of the user's code in what faulthandler has written after ``start``."""
        fd = self._log.fileno()
        text = os.pread(fd, os.fstat(fd).st_size, start).decode(errors="replace")
        for line in text.rpartition("most recent call first")[2].splitlines(keepends=True):
            parts = line.strip().split('"')
            if line.endswith("\n") and len(parts) >= 3 and parts[0] == "File " and is_users_file(parts[1]):
                return f" (at {parts[1]}:{parts[2].removeprefix(', line ').split(' ')[0]})"
        return ""


class _Forked:
    """A fork of this process."""

    def __init__(
        self, target: Target, requests: Connection, replies: Connection, log_fd: int, inherited: Sequence[Connection]
    ) -> None:
        has_loaders = any(not child.name.startswith(_NAME) for child in active_children())
        parent, filters = os.getpid(), list(warnings.filters)

        def run() -> None:
            end_with_parent(parent)
            os.setpgid(0, 0)
            warnings.filters[:] = filters  # type: ignore[index]
            for end in inherited:
                end.close()
            current_process().daemon = False  # it may have children: DataLoaders have
            serve(target, Inbox(requests), replies, log_fd, parent_has_loaders=has_loaders)

        # A daemon to this process, which ends it if it exits without ``kill``.
        self._process = get_context("fork").Process(target=run, name=f"{_NAME}-{parent}", daemon=True)
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()  # or the fork would write once more what waits there
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which ``why_no_fork`` has judged
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        with suppress(OSError):  # whoever is first, parent or child
            os.setpgid(self.pid, self.pid)

    def exit_code(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> None:
        self._process.join(seconds)


class _Fresh:
    """A new process of Python, with a pickled target."""

    def __init__(
        self, target: Target, requests: Connection, replies: Connection, log_fd: int, inherited: Sequence[Connection]
    ) -> None:
        fds = (requests.fileno(), replies.fileno(), log_fd)
        self._process = subprocess.Popen(  # noqa: S603  (our own program)
            [sys.executable, "-P", str(_FRESH_MAIN), str(os.getpid()), *map(str, fds)],
            stdin=subprocess.DEVNULL,
            pass_fds=fds,
            process_group=0,
        )
        self.pid = self._process.pid

    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)


def first_request(target: Target) -> bytes:
    """Return what a fresh worker reads first: where modules are found, and its pickled target."""
    import cloudpickle
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
        """Leaves the processes of persistent DataLoaders here. The loaders start others there."""

        def reducer_override(self, obj: Any) -> Any:
            return (type(None), ()) if isinstance(obj, _BaseDataLoaderIter) else super().reducer_override(obj)

    for name, module in list(sys.modules.items()):
        if name.startswith(FILE_MODULE):  # a task file, which a worker cannot import by a name
            cloudpickle.register_pickle_by_value(module)
    pickled = io.BytesIO()
    Pickler(pickled).dump(target)
    return pickle.dumps((list(sys.path), pickled.getvalue()))


def wait_for_replies(workers: Sequence[Worker], timeout_s: float) -> list[Worker]:
    """Return the workers from which something can be received, or that have ended; none after a time.

    Args:
        workers: The workers that are busy.
        timeout_s: Seconds to wait.
    """
    ready: set[Any] = set(wait([worker.replies for worker in workers], timeout_s))
    # A process that outlives the worker may hold its pipe open.
    return [worker for worker in workers if worker.replies in ready or worker.has_ended()]
