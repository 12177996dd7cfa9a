"""Run functions in a forked process, so that a crash, an exit or an endless loop ends one of them and not all."""

import os
import pickle
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_LENGTH_BYTES = 8
_END_S = 10  # from the last byte of a process to its end


def can_fork() -> bool:
    """Return True if this process can be forked safely: on Linux, unless it has used CUDA."""
    return sys.platform == "linux" and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # untyped in torch


def run_isolated(
    functions: Sequence[Callable[[], T]],
    *,
    timeout_s: float,
    failure: Callable[[int, str], T],
    keep_process: Callable[[], bool],
) -> list[T]:
    """Run functions one after another in a forked process and return their results.

    If a function ends the process or takes too long, its result is ``failure(index, reason)``, and the remaining
    functions run in a new process.

    Args:
        functions: Functions without arguments. Their results must be possible to pickle.
        timeout_s: Time limit of one function in seconds; > 0.
        failure: Makes the result of a function that returned none, from its index and the reason.
        keep_process: Called in the process after each function. False means that the function changed the process, so
            the next function needs a new one.
    """
    results: list[T] = []
    while len(results) < len(functions):
        remaining = functions[len(results) :]
        child = _Child(remaining, keep_process)
        try:
            for _ in remaining:
                reply = child.receive(timeout_s)
                if isinstance(reply, str):
                    results.append(failure(len(results), reply))
                    break
                results.append(reply.result)
                if not reply.keep_process:
                    break
        finally:
            child.close()
    return results


@dataclass(frozen=True)
class _Reply:
    result: Any
    keep_process: bool


class _Child:
    """A forked process that runs functions and writes each result to a pipe."""

    def __init__(self, functions: Sequence[Callable[[], Any]], keep_process: Callable[[], bool]) -> None:
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python warns of threads, which do not exist in the new process. A wait for one would reach the time limit.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            _serve(functions, keep_process, writer)  # never returns
        os.close(writer)
        self._is_waited_for = False

    def receive(self, timeout_s: float) -> _Reply | str:
        """Return the next result, or the reason why there is none."""
        deadline = time.monotonic() + timeout_s
        try:
            length = int.from_bytes(self._read(_LENGTH_BYTES, deadline), "big")
            reply: _Reply = pickle.loads(self._read(length, deadline))  # noqa: S301  (written by our own process)
        except TimeoutError:
            return f"no result after {timeout_s:g} s"
        except EOFError:
            return self._describe_end()
        return reply

    def close(self) -> None:
        """End the process, and all processes that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        if not self._is_waited_for:
            os.kill(self._pid, signal.SIGKILL)  # it may not have made its group yet
            os.waitpid(self._pid, 0)
        os.close(self._reader)

    def _read(self, length: int, deadline: float) -> bytes:
        content = b""
        while len(content) < length:
            is_ready, _, _ = select.select([self._reader], [], [], max(0.0, deadline - time.monotonic()))
            if not is_ready:
                raise TimeoutError
            part = os.read(self._reader, length - len(content))
            if not part:
                raise EOFError
            content += part
        return content

    def _describe_end(self) -> str:
        deadline = time.monotonic() + _END_S
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if not pid:
                time.sleep(0.001)
                continue
            self._is_waited_for = True
            code = os.waitstatus_to_exitcode(status)
            if code >= 0:
                return f"it ended the process with exit code {code}"
            return f"it ended the process by {signal.Signals(-code).name}"
        return "it closed the pipe of its results"


def _serve(functions: Sequence[Callable[[], Any]], keep_process: Callable[[], bool], writer: int) -> None:
    """Run in the forked process: write the result of each function, and exit."""
    try:
        os.setsid()  # a group of its own, so that what it starts can be ended with it
        torch.set_num_threads(1)  # the threads of the parent do not exist here
        for function in functions:
            result = function()
            keep = keep_process()
            content = pickle.dumps(_Reply(result, keep))
            with os.fdopen(os.dup(writer), "wb") as pipe:
                pipe.write(len(content).to_bytes(_LENGTH_BYTES, "big") + content)
            if not keep:
                break
    finally:
        os._exit(1)  # without the exit handlers, which belong to the parent
