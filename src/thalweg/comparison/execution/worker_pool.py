"""WorkerPool: runs trainings in worker processes, or in this process where there can be none.

A worker is a fork of this process where that is safe: it starts in milliseconds, and the task and the contenders need
not be pickled. Elsewhere, as on a machine with a GPU, it is a fresh process. Beside others a worker has one thread. For
small networks the second thread of a training gains little, but a second training gains everything.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import monotonic
from typing import Self

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.execution.job import Job, Target, Watch, train
from thalweg.comparison.processes.slots import Ending, Slot, endings
from thalweg.comparison.processes.stopping import (
    Stopped,
    interrupts_counted,
    interrupts_delayed,
    stopped_when,
    time_limit,
)
from thalweg.comparison.processes.worker import Worker, why_no_fork
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.trainer import DeviceLost
from thalweg.comparison.training.workload import Workload
from thalweg.engine.core import devices
from thalweg.errors import TaskError
from thalweg.tasks.reproducibility.isolation import portable_settings

# A training hangs if it has not ended after so many seconds, plus a multiple of its predicted time.
MIN_TIMEOUT_S, TIMEOUT_FACTOR = 60.0, 20


@dataclass(frozen=True)
class _Failure:
    """A job without results.

    Attributes:
        reason: The reason, in words.
        may_pass: True if the same job may succeed next time: memory that ran out ends a worker, too.
        is_notice: True if the user is told at once.
    """

    reason: str
    may_pass: bool = False
    is_notice: bool = False


class WorkerPool:
    """Runs jobs. As a context manager it ends its workers on exit.

    On the CPU all trainings run in worker processes, even if there is only one, wherever this process can be forked:
    nothing that a training does ends this process. Otherwise one worker means this process. Each worker on an
    accelerator has a device, and gets a new process if an error has made the device useless in the old one. If that
    happens in this process, a worker trains from then on.

    A training that ends its worker is run once more, alone; if it ends that too, it has failed. It is never run in this
    process. A training that takes far longer than predicted has failed. Of several trainings in a job, each then runs
    by itself.

    Args:
        workload: The task or training function, as the user made it.
        num_workers: Number of worker processes, at least 1.
        notify: Called with a sentence when a worker dies, a training hangs, or a device is lost.
        usable: The devices that train: one for each worker in turn; the first serves this process.
        timeout_s: Seconds that a single training may take. None allows a minute and 20 times the time that is
            predicted, or that the slowest training so far has taken. Before anything is known there is no limit.
        contenders: The contenders that a worker knows from its start. For a job of another one it is started anew, and
            the first training of a process is slow.

    Attributes:
        capacity: The number of jobs that run at once.
    """

    def __init__(
        self,
        workload: Workload,
        num_workers: int,
        notify: Callable[[str], None],
        usable: Sequence[str] = (devices.AUTO,),
        timeout_s: float | None = None,
        contenders: Iterable[Contender] = (),
    ) -> None:
        self._workload, self._notify, self._timeout_s = workload, notify, timeout_s
        self.capacity = max(1, num_workers)
        self._on_cpu = all(text in (devices.AUTO, "cpu") for text in usable)
        self._slots: list[Slot[Job]] = [Slot(usable[k % len(usable)]) for k in range(self.capacity)]
        known = list(contenders)
        self._contenders: dict[Slot[Job], list[Contender]] = {slot: list(known) for slot in self._slots}
        self._is_device_lost = False  # in this process
        self._slowness = 1.0  # the most that a job took, in units of its predicted time
        self._longest_s: float | None = None  # the most seconds that a training took
        self._is_stopped, self._deadline_s = False, math.inf
        self._is_told = False  # that workers start slowly

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all worker processes, whatever interrupts come meanwhile. A later job starts new ones."""
        with interrupts_delayed():
            for slot in self._slots:
                slot.kill()

    def stop(self) -> None:
        """Start no more jobs and leave those that run, so that ``run`` ends soon. A signal handler may call it.

        A training is left at its next evaluation or report; its worker is killed if that takes longer than a second. A
        training in this process is always waited for until then. A pool that was stopped runs nothing more.
        """
        self._is_stopped = True

    def run(
        self, jobs: Iterable[Job], report_share: Callable[[Job, float], None], deadline_s: float = math.inf
    ) -> Generator[tuple[Job, list[TrainingResult]]]:
        """Run jobs and yield each with its results as soon as it ends.

        Jobs that were left, at the deadline or by ``stop``, are not yielded. If the caller closes this generator early,
        or an exception such as KeyboardInterrupt ends it, the jobs that run are killed. A generator that is collected
        instead of closed would swallow an interrupt that comes meanwhile, so the caller closes it.

        Args:
            jobs: The jobs. A sequence is run with its longest job first. Of another iterable, the next job is taken
                when there is room for it, so it may depend on the results that were yielded before.
            report_share: Called now and then with a job and the share of it that is done, from 0 to 1.
            deadline_s: When to leave the jobs that still run, on the clock of ``time.monotonic``.

        Raises:
            TaskError: If the device is lost in this process, and worker processes cannot train.
        """
        self._deadline_s = deadline_s
        waiting = iter(sorted(jobs, key=lambda job: -job.predicted_s) if isinstance(jobs, Sequence) else jobs)
        if not self._uses_workers():
            yield from self._run_here(waiting, report_share)
        failed: list[tuple[Job, _Failure]] = []
        is_full = (lambda: False) if isinstance(jobs, Sequence) else (lambda: bool(failed))
        while True:
            with closing(self._run_in_workers(waiting, self._slots, report_share, is_full)) as endings_of_jobs:
                for job, ended in endings_of_jobs:
                    if not isinstance(ended, _Failure):
                        yield job, ended
                    elif ended.may_pass or len(job.trials) > 1:
                        failed.append((job, ended))
                    else:
                        yield job, self._results_of_failure(job, ended)
            if not failed:
                return
            while failed:  # no other job runs now
                job, failure = failed.pop(0)
                results = self._rescue(job, failure)
                if results is not None:
                    yield job, results

    def _uses_workers(self) -> bool:
        has_worker = self._slots[0].worker is not None
        return self._is_device_lost or self.capacity >= 2 or has_worker or self._can_fork()

    def _can_fork(self) -> bool:
        return self._on_cpu and not why_no_fork()

    def _must_stop(self) -> bool:
        return self._is_stopped or monotonic() >= self._deadline_s

    def _timeout(self, job: Job) -> float:
        """Return the seconds after which a job hangs."""
        if self._timeout_s is not None:
            return self._timeout_s * len(job.trials)
        # The prediction shares the time of a job among all workers.
        expected_s = job.predicted_s * self.capacity * self._slowness
        if self._longest_s is not None:
            measured_s = self._longest_s * len(job.trials)
            expected_s = max(expected_s, measured_s) if math.isfinite(expected_s) else measured_s
        return MIN_TIMEOUT_S + TIMEOUT_FACTOR * expected_s

    # --- in this process ----------------------------------------------------------------------------------------------

    def _run_here(
        self, waiting: Iterator[Job], report_share: Callable[[Job, float], None]
    ) -> Iterator[tuple[Job, list[TrainingResult]]]:
        """Run jobs in this process until none waits, or the device is lost."""
        device = self._slots[0].device
        while not self._is_device_lost and not self._must_stop():
            job = next(waiting, None)
            if job is None:
                return
            results: list[TrainingResult] | None
            watch = Watch(report_share, job)
            try:
                with stopped_when(self._must_stop), interrupts_counted(), time_limit(self._timeout(job)):
                    results = train(self._workload.on(device), job, watch.report_share)
            except Stopped:
                if watch.error is not None:
                    raise watch.error from None
                return
            except DeviceLost as lost:
                self._is_device_lost = True
                self._notify(f"{device} fails in this process; other trainings run in a worker process")
                results = self._rescue(job, _Failure(str(lost)))
            if results is not None:
                yield job, results

    # --- in worker processes ------------------------------------------------------------------------------------------

    def _run_in_workers(
        self,
        waiting: Iterator[Job],
        slots: Sequence[Slot[Job]],
        report_share: Callable[[Job, float], None],
        is_full: Callable[[], bool] = lambda: False,
    ) -> Generator[tuple[Job, list[TrainingResult] | _Failure]]:
        """Yield jobs as they end, with a failure instead of results where there are none. End if no job runs.

        No job is taken while ``is_full`` returns True.
        """
        try:
            while True:
                for slot in slots:
                    if slot.job is not None or self._must_stop() or is_full():
                        continue
                    if (job := next(waiting, None)) is not None:
                        self._begin(slot, job)
                busy = [slot for slot in slots if slot.job is not None]
                if not busy:
                    return
                for slot, ending in endings(busy, self._must_stop, self._timeout, report_share):
                    job = slot.finish()
                    ended = self._outcome(job, ending)
                    if ending.kind == "lost":
                        slot.kill()
                    if ended is not None:
                        yield job, ended
        finally:
            with interrupts_delayed():
                for slot in slots:
                    if slot.job is not None:
                        slot.kill()
                        slot.finish()

    def _begin(self, slot: Slot[Job], job: Job) -> None:
        """Give a job to the process of a slot. It is started if there is none, or if it does not know a contender."""
        import cloudpickle

        known = self._contenders[slot]
        if slot.worker is None or not all(_holds(known, contender) for contender in job.contenders):
            slot.kill()
            for contender in job.contenders:
                if not _holds(known, contender):
                    known.append(contender)
            slot.worker = self._start_worker(slot, known)
        numbers = [
            next(k for k, candidate in enumerate(known) if candidate is contender) for contender in job.contenders
        ]
        slot.begin(job, cloudpickle.dumps((numbers, replace(job, contenders=()))))

    def _start_worker(self, slot: Slot[Job], contenders: Sequence[Contender]) -> Worker:
        is_fork = self._can_fork()
        target = Target(
            self._workload if is_fork else self._workload.on(devices.AUTO),
            slot.device,
            list(contenders),
            torch.get_num_threads() if self.capacity == 1 else 1,
            {} if is_fork else portable_settings(),
        )
        if self._on_cpu and not is_fork and not self._is_told:
            self._is_told = True
            self._notify(f"each worker is started anew, which takes seconds: {why_no_fork()}")
        if is_fork:
            # torch imports its compiler with the first optimizer, which takes seconds: once, and not in each worker.
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
        siblings = [sibling.worker for sibling in self._slots if sibling.worker is not None]
        try:
            return Worker(target, is_fork=is_fork, siblings=siblings)
        except Exception as error:  # objects that cannot be pickled raise many kinds of error
            raise TaskError(
                f"{self._workload.name}: it must be possible to train in a worker process, got "
                f"{type(error).__name__}: {error}. Run the same command again to resume: the trainings that are stored "
                "are kept."
            ) from error

    def _outcome(self, job: Job, ending: Ending) -> list[TrainingResult] | _Failure | None:
        """Return the results of a job or the reason why there are none; None if it was left."""
        if ending.kind == "done":
            self._slowness = max(self._slowness, ending.seconds / max(1.0, job.predicted_s * self.capacity))
            self._longest_s = max(self._longest_s or 0.0, ending.seconds / len(job.trials))
            return list(ending.value)
        if ending.kind == "stopped":
            return None
        if ending.kind == "late":
            hint = "" if self._timeout_s is None else ", the timeout"
            return _Failure(f"{ending.value}{hint}", is_notice=True)
        died = ending.kind == "died"
        return _Failure(ending.value, may_pass=died, is_notice=died)

    def _rescue(self, job: Job, failure: _Failure) -> list[TrainingResult] | None:
        """Return the results of a job that failed, after running it once more if that may help; None if it was left.

        It runs alone: memory that does not suffice for several workers may suffice for one.
        """
        if failure.may_pass:
            self._notify(f"{self._named(job)}: {failure.reason}; it runs once more")
            ended = self._run_alone(job)
            if not isinstance(ended, _Failure):
                return ended
            failure = ended
        if len(job.trials) == 1:
            return self._results_of_failure(job, failure)
        results: list[TrainingResult] = []
        rungs = job.rungs
        for contender, trial in zip(job.contenders, job.trials, strict=True):
            share = job.predicted_s / len(job.trials)
            single = replace(job, contenders=(contender,), trials=(trial,), predicted_s=share, rungs=rungs)
            ended = self._run_alone(single)
            ended = self._rescue(single, ended) if isinstance(ended, _Failure) else ended
            if ended is None:
                return None
            results += ended
            rungs = rungs and rungs.with_training(results[-1].evaluations)
        return results

    def _run_alone(self, job: Job) -> list[TrainingResult] | _Failure | None:
        """Run a job while no other runs."""
        ended = list(self._run_in_workers(iter([job]), self._slots[:1], lambda *_: None))
        return ended[0][1] if ended else None

    def _results_of_failure(self, job: Job, failure: _Failure) -> list[TrainingResult]:
        if failure.is_notice:
            self._notify(f"{self._named(job)} failed: {failure.reason}")
        # The device, not its hardware: after an error its name can no longer be asked for.
        hardware = "cpu" if self._on_cpu else self._slots[0].device
        return [TrainingResult("failed", message=failure.reason, hardware=hardware)]

    @staticmethod
    def _named(job: Job) -> str:
        names = ", ".join(dict.fromkeys(contender.name for contender in job.contenders))
        return f"a training of {names}" if len(job.trials) == 1 else f"{len(job.trials)} trainings of {names}"


def _holds(contenders: Sequence[Contender], contender: Contender) -> bool:
    return any(known is contender for known in contenders)
