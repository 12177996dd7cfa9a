"""Slots: room for one job at a time in a worker process, with a limit of its time and a way to leave it early."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeVar

from thalweg.comparison.processes.worker import Worker, WorkerDied, wait_for_replies

POLL_S = 0.1  # after which a worker that has died without a word is noticed
GRACE_S = 1.0  # for a job to leave by itself once it is asked to

T = TypeVar("T")


@dataclass(frozen=True)
class Ending:
    """The end of a job.

    Attributes:
        kind: ``done``, ``stopped``, ``died`` with its worker, ``late``, or a kind of reply that the worker chose.
        value: The result, or the reason why there is none, in words.
        seconds: The time since its start.
    """

    kind: str
    value: Any
    seconds: float


class Slot(Generic[T]):
    """Room for one job at a time.

    Args:
        device: A label: where the jobs run.

    Attributes:
        worker: The process; None before the first job and after it was killed.
        job: The job that runs; None if there is none.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.worker: Worker | None = None
        self.job: T | None = None
        self._start_s, self._kill_s = 0.0, math.inf

    def begin(self, job: T, request: bytes) -> None:
        """Send a job to the worker, which is idle.

        Args:
            job: The job.
            request: The pickled request to the worker.
        """
        assert self.worker is not None
        self.job, self._start_s, self._kill_s = job, monotonic(), math.inf
        self.worker.send(request)

    def leave(self) -> None:
        """Ask the worker to leave its job soon. Where it does not, ``endings`` kills it."""
        if self.worker is not None and self._kill_s == math.inf:
            self._kill_s = monotonic() + GRACE_S
            self.worker.stop()

    def finish(self) -> T:
        """Take the job out of the slot and return it."""
        job, self.job = self.job, None
        assert job is not None
        return job

    def kill(self) -> None:
        """End the process, if there is one."""
        if self.worker is not None:
            self.worker.kill()
        self.worker = None

    def reply(self) -> Ending | float:
        """Return how the job has ended, or the share of it that is done."""
        assert self.worker is not None
        try:
            reply = self.worker.receive()
        except WorkerDied as death:
            self.kill()
            return self._ending("stopped" if self._kill_s < math.inf else "died", str(death))
        return reply.value if reply.kind == "share" else self._ending(reply.kind, reply.value)

    def overdue(self, timeout_s: float) -> Ending | None:
        """Kill a worker that takes longer than the timeout, or longer to leave than it may; return the end of its job.

        Args:
            timeout_s: Seconds after which the job is late.
        """
        assert self.worker is not None
        now = monotonic()
        if now > self._kill_s:
            self.kill()
            return self._ending("stopped", "")
        if self._kill_s == math.inf and now > self._start_s + timeout_s:
            where = self.worker.where()
            self.kill()
            return self._ending("late", f"no end after {timeout_s:.3g} s{where}")
        return None

    def _ending(self, kind: str, value: Any) -> Ending:
        return Ending(kind, value, monotonic() - self._start_s)


def endings(
    busy: Sequence[Slot[T]],
    must_stop: Callable[[], bool],
    timeout: Callable[[T], float],
    report_share: Callable[[T, float], None],
) -> Iterator[tuple[Slot[T], Ending]]:
    """Wait a moment, and yield the slots whose jobs have ended.

    Args:
        busy: The slots with a job.
        must_stop: Returns True if all jobs shall be left.
        timeout: Returns the seconds after which a job is late.
        report_share: Called with a job and the share of it that is done.
    """
    if must_stop():
        for slot in busy:
            slot.leave()
    ready = wait_for_replies([slot.worker for slot in busy if slot.worker is not None], POLL_S)
    for slot in busy:
        assert slot.job is not None
        ending = slot.reply() if slot.worker in ready else slot.overdue(timeout(slot.job))
        if isinstance(ending, Ending):
            yield slot, ending
        elif ending is not None:
            report_share(slot.job, ending)
