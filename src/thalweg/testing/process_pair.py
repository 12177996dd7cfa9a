"""Two other processes, joined by gloo, in which checks run that need another program or several processes."""

import atexit
import json
import os
import pickle
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from thalweg.testing.fixtures import RefusedError, SkippedError, Subject

_TIMEOUT_S = 180
_TIMEOUT_AFTER_A_FAILURE_S = 20

CheckInPair = Callable[[Subject, int], float | None]
"""A check that both processes run: from the optimizer under test and the rank, 0 or 1. Rank 0 returns the number."""


def run_in_pair(check: CheckInPair, subject: Subject) -> float | None:
    """Run a check in both processes and return the number that rank 0 measured. None of its code runs in this process.

    Args:
        check: A function of a module.
        subject: The optimizer under test. It must be possible to pickle its factory.

    Raises:
        SkippedError: If the factory cannot be sent to another process.
        RefusedError: If the optimizer refused with a clear error.
        AssertionError: If the check failed.
    """
    try:
        pickled = pickle.dumps((check, replace(subject, reference=None, variants={})))
    except Exception as error:  # an object of a user may raise anything
        raise SkippedError(f"the factory cannot be sent to another process: {error}") from error
    if b"__main__" in pickled:  # in another process this is another script
        raise SkippedError("the factory cannot be sent to another process: it is defined in a script")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "path").write_bytes(pickle.dumps(sys.path))
        (Path(folder) / "check").write_bytes(pickled)
        return _processes().run(folder)


class _ProcessPair:
    """The two processes. They stay for later checks, because to start them takes longer than a check."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        # Run as a script: run as a module it would be imported twice, the first time by its package.
        command = [sys.executable, "-P", __file__, self._folder.name]
        self._processes = [
            subprocess.Popen([*command, str(rank)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
            for rank in range(2)
        ]
        atexit.register(self.close)

    def run(self, folder: str) -> float | None:
        """Run the check whose files lie in a folder; return its number, or raise the error that a process reports."""
        try:
            for process in self._processes:
                assert process.stdin is not None
                process.stdin.write(folder + "\n")
                process.stdin.flush()
            replies = self._read_replies()
        except OSError:
            replies = []
        if len(replies) < len(self._processes) or any(reply is None for reply in replies):
            self.close()  # one process has ended, or waits for the other without end
        failures = [reply for reply in replies if reply is not None and reply["outcome"] != "passed"]
        if failures:
            if failures[0]["outcome"] == "refused":
                raise RefusedError(failures[0]["detail"])
            raise AssertionError(failures[0]["detail"])
        if not replies or any(reply is None for reply in replies):
            raise AssertionError("a process ended, or was too slow")
        number: float | None = cast("dict[str, Any]", replies[0])["number"]
        return number

    def _read_replies(self) -> list[dict[str, Any] | None]:
        """Return the replies of the processes; None for one that gives none."""
        replies: dict[Any, dict[str, Any] | None] = {process.stdout: None for process in self._processes}
        waiting = list(replies)
        deadline = time.monotonic() + _TIMEOUT_S
        while waiting:
            ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for pipe in ready:
                line = pipe.readline()
                reply = replies[pipe] = json.loads(line) if line else None
                waiting.remove(pipe)
                if reply is None or reply["outcome"] != "passed":  # the other may wait for this one without end
                    deadline = min(deadline, time.monotonic() + _TIMEOUT_AFTER_A_FAILURE_S)
        return list(replies.values())

    def close(self) -> None:
        """End the processes. The next check starts new ones."""
        _processes.cache_clear()
        atexit.unregister(self.close)
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
        self._folder.cleanup()


@cache
def _processes() -> _ProcessPair:
    return _ProcessPair()


def _serve(folder: Path, rank: int) -> None:
    """Run in one of the two processes: read the folder of a check from each line of stdin, and reply on stdout."""
    import torch
    import torch.distributed as dist

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no reply: optimizers, and gloo before torch 2.9
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for line in sys.stdin:
        try:
            reply: dict[str, Any] = {"outcome": "passed", "number": _run(Path(line.strip()), rank)}
        except RefusedError as refusal:
            reply = {"outcome": "refused", "detail": " ".join(str(refusal).split())}
        except AssertionError as failure:
            reply = {"outcome": "failed", "detail": " ".join(str(failure).split())}
        except Exception as error:  # an optimizer of another library may raise anything; all of it is a failure
            reply = {"outcome": "failed", "detail": " ".join(f"{type(error).__name__}: {error}".split())}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _run(folder: Path, rank: int) -> float | None:
    # The import path first, because the factory may lie on it. Our own parent process wrote both files.
    sys.path[:] = pickle.loads((folder / "path").read_bytes())  # noqa: S301
    check, subject = pickle.loads((folder / "check").read_bytes())  # noqa: S301
    number: float | None = check(subject, rank)
    return number


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
