"""WorkerPool: runs trainings in this process, or in as many worker processes as there are cores.

A worker has one thread. For small networks the second thread of a training gains little, but a second training gains
everything. Workers come from loky, which pickles a user's own functions and reports when a worker has died.
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Thread, current_thread, main_thread
from time import monotonic, sleep
from typing import Any, Self

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import Workload
from thalweg.tasks.catalogue import FILE_MODULE

# The workers hang if none has finished a job for this long: seconds, plus a multiple of the longest predicted job.
MIN_TIMEOUT_S, TIMEOUT_FACTOR = 60.0, 20
POLL_S = 1.0
ATTEMPTS = 2  # in worker processes, before the rest is trained in this process

_DIED = "a worker process has died"


@dataclass(frozen=True, eq=False)
class Job:
    """Trainings that run together.

    Attributes:
        contenders: The contender of each trial.
        trials: Settings and seeds.
        schedule: Length, learning rate schedule and number of evaluations, the same for all trials.
        predicted_s: Predicted seconds of all trials.
        rungs: Points at which trainings are pruned; None prunes nothing.
    """

    contenders: tuple[Contender, ...]
    trials: tuple[Trial, ...]
    schedule: TrainingSchedule
    predicted_s: float
    rungs: Rungs | None = None


class WorkerPool:
    """Runs jobs, in this process or in worker processes. As a context manager it ends its workers on exit.

    Args:
        workload: The task or training function.
        num_workers: Number of worker processes; below 2, all jobs run in this process.
        notify: Called with a sentence when a worker dies or hangs.
    """

    def __init__(self, workload: Workload, num_workers: int, notify: Callable[[str], None]) -> None:
        self._workload, self._num_workers, self._notify = workload, num_workers, notify
        self._executor: Any = None  # loky has no types

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all worker processes. A later job starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None

    def run(
        self, jobs: Sequence[Job], report_share: Callable[[Job, float], None]
    ) -> Iterator[tuple[Job, list[TrainingResult]]]:
        """Run jobs and yield each with its results as it ends.

        If a worker dies or hangs, unfinished jobs are run in new workers, and if that fails too, in this process.

        Args:
            jobs: The jobs, in any order.
            report_share: Called with the share of a job that is done, from 0 to 1; only for jobs in this process.
        """
        remaining = list(jobs)
        if self._num_workers >= 2 and len(jobs) >= 2:
            for attempt in range(ATTEMPTS):
                failure = None
                for job, results in self._run_in_workers(remaining):
                    if isinstance(results, str):
                        failure = results
                        break
                    remaining.remove(job)
                    yield job, results
                if failure is None:
                    return
                self.close()
                where = "once more in new workers" if attempt == 0 else "one after the other in this process"
                self._notify(f"{failure}; the jobs it left unfinished run {where}")
        for job in remaining:
            yield job, _train(self._workload, job, partial(report_share, job))

    def _start_workers(self) -> Any:
        """Return the executor of the worker processes, started if necessary."""
        if self._executor is None:
            import cloudpickle
            import loky

            _pickle_task_files_by_value()
            pickled = cloudpickle.dumps(self._workload)
            self._executor = loky.ProcessPoolExecutor(
                self._num_workers, initializer=_initialize_worker, initargs=(list(sys.path), pickled)
            )
        return self._executor

    def _run_in_workers(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, list[TrainingResult] | str]]:
        """Yield jobs as they end, with a message instead of results where a worker died or hangs."""
        # The longest first, so that no worker is left alone with a long one in the end.
        ordered = sorted(jobs, key=lambda job: -job.predicted_s)
        try:
            with _interrupts_delayed():
                running = {self._start_workers().submit(_train_in_worker, job): job for job in ordered}
        except BrokenProcessPool:
            yield ordered[0], _DIED
            return
        last_s = monotonic()
        timeout_s = MIN_TIMEOUT_S + TIMEOUT_FACTOR * max((job.predicted_s for job in ordered), default=0.0)
        while running:
            ended, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
            if ended:
                last_s = monotonic()
            elif monotonic() - last_s > timeout_s:
                yield next(iter(running.values())), f"no worker process has finished a job for {timeout_s:.0f} s"
                return
            for future in ended:
                yield running.pop(future), _result(future)


def _train(workload: Workload, job: Job, report_share: Callable[[float], None]) -> list[TrainingResult]:
    return workload.train(job.contenders, job.trials, job.schedule, report_share, job.rungs)


def _result(future: "Future[list[TrainingResult]]") -> list[TrainingResult] | str:
    try:
        return future.result()
    except BrokenProcessPool:
        return _DIED


@contextmanager
def _interrupts_delayed() -> Iterator[None]:
    """Delay Ctrl-C: workers that are half started could not be ended, and would stay for a while."""
    if current_thread() is not main_thread():  # only the main thread is interrupted
        yield
        return
    signals: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: signals.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if signals:
        signal.raise_signal(signal.SIGINT)


_WORKLOAD: list[Workload] = []  # of a worker process


def _initialize_worker(path: list[str], pickled: bytes) -> None:
    """Prepare a worker process. Redirect task output to stderr; stdout carries results."""
    sys.path[:] = path  # before any of the user's objects is unpickled
    sys.stdout = sys.stderr
    Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    _WORKLOAD[:] = [pickle.loads(pickled)]  # noqa: S301 (pickled by the parent)


def _exit_with_parent(parent: int) -> None:
    """End this worker when its parent is gone: a parent that was killed cannot close its pool."""
    while os.getppid() == parent:
        sleep(POLL_S)
    os._exit(1)


def _train_in_worker(job: Job) -> list[TrainingResult]:
    return _train(_WORKLOAD[0], job, lambda share: None)


def _pickle_task_files_by_value() -> None:
    """Pickle what was read from task files by value: a worker cannot import it by a name."""
    import cloudpickle

    for name, module in list(sys.modules.items()):
        if name.startswith(FILE_MODULE):
            cloudpickle.register_pickle_by_value(module)
