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
from dataclasses import dataclass, replace
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
from thalweg.comparison.training.trainer import DeviceLost
from thalweg.comparison.training.workload import Workload
from thalweg.engine.core import devices
from thalweg.errors import TaskError
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


class _Slot:
    """Worker processes of one device. loky starts processes of their own: a fork of this one could not use CUDA."""

    def __init__(self, num_workers: int, device: str, most_jobs: int, initargs: tuple[Any, ...]) -> None:
        self._new = (num_workers, device, initargs)
        self._executor: Any = None  # loky has no types
        self.room = most_jobs

    def submit(self, job: Job) -> "Future[list[TrainingResult]]":
        """Start the processes if necessary, and hand them a job."""
        if self._executor is None:
            import loky

            num_workers, device, initargs = self._new
            self._executor = loky.ProcessPoolExecutor(
                num_workers, initializer=_initialize_worker, initargs=(*initargs, device)
            )
        self.room -= 1
        return self._executor.submit(_train_in_worker, job)

    def close(self) -> None:
        """End the processes. A later job starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None


class WorkerPool:
    """Runs jobs, in this process or in worker processes. As a context manager it ends its workers on exit.

    Workers on the CPU share a queue. Each worker on an accelerator has a device, and gets a new process if an error has
    made the device useless in the old one. If that happens in this process, a worker trains from then on.

    Args:
        workload: The task or training function, as the user made it.
        num_workers: Number of worker processes; below 2, all jobs run in this process.
        notify: Called with a sentence when a worker dies or hangs, or a device is lost.
        usable: The devices that train: one for each worker in turn; the first serves this process.
    """

    def __init__(
        self,
        workload: Workload,
        num_workers: int,
        notify: Callable[[str], None],
        usable: Sequence[str] = (devices.AUTO,),
    ) -> None:
        self._workload, self._num_workers, self._notify = workload, num_workers, notify
        self._devices = list(usable)
        self._on_cpu = all(text in (devices.AUTO, "cpu") for text in usable)
        self._slots: list[_Slot] = []
        self._is_device_lost = False  # in this process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all worker processes. A later job starts new ones."""
        for slot in self._slots:
            slot.close()
        self._slots = []

    def run(
        self, jobs: Sequence[Job], report_share: Callable[[Job, float], None]
    ) -> Iterator[tuple[Job, list[TrainingResult]]]:
        """Run jobs and yield each with its results as it ends.

        If a worker dies or hangs, unfinished jobs are run in new workers, and if that fails too, in this process.

        Args:
            jobs: The jobs, in any order.
            report_share: Called with the share of a job that is done, from 0 to 1; only for jobs in this process.

        Raises:
            TaskError: If the device is lost in this process, and worker processes cannot train.
        """
        waiting = list(jobs)
        if self._num_workers >= 2 and len(jobs) >= 2 and not self._is_device_lost:
            yield from self._run_by_workers(waiting)
        while waiting:
            if self._is_device_lost:
                yield from self._run_by_workers(waiting)
                if waiting:
                    raise self._cannot_continue("worker processes die")
                return
            job = waiting.pop(0)
            try:
                results = _train(self._workload.on(self._devices[0]), job, partial(report_share, job))
            except DeviceLost as lost:
                self._is_device_lost = True
                self._notify(f"{self._devices[0]} fails in this process; other trainings run in a worker process")
                results = self._rescue(job, str(lost))
            yield job, results

    def _run_by_workers(self, waiting: list[Job]) -> Iterator[tuple[Job, list[TrainingResult]]]:
        """Run jobs in workers, twice at most, and remove those that are done from ``waiting``."""
        for attempt in range(ATTEMPTS):
            failure = None
            lost: list[tuple[Job, str]] = []
            for job, results in self._run_in_workers(waiting):
                if isinstance(results, str):
                    failure = results
                    break
                waiting.remove(job)
                if isinstance(results, DeviceLost):
                    lost.append((job, str(results)))
                else:
                    yield job, results
            if failure is not None:
                self.close()
                where = "once more in new workers" if attempt == 0 else "one after the other in this process"
                self._notify(f"{failure}; the jobs it left unfinished run {where}")
            for job, message in lost:
                yield job, self._rescue(job, message)
            if failure is None:
                return

    def _rescue(self, job: Job, message: str) -> list[TrainingResult]:
        """Return the results of a job in which a device was lost: of several trainings, each runs by itself."""
        if len(job.trials) == 1:
            return [_failed(message, self._devices[0])]
        results: list[TrainingResult] = []
        rungs = job.rungs
        for contender, trial in zip(job.contenders, job.trials, strict=True):
            single = replace(job, contenders=(contender,), trials=(trial,), rungs=rungs)
            ((_, ended),) = list(self._run_in_workers([single]))
            if isinstance(ended, list):
                results += ended
            else:
                results.append(_failed(str(ended), self._devices[0]))
                self.close()  # a worker that has died takes its executor with it
            rungs = rungs and rungs.with_training(results[-1].evaluations)
        return results

    def _cannot_continue(self, got: str) -> TaskError:
        return TaskError(
            f"{self._workload.name}: {self._devices[0]} must work, and fails in this process after an error, got "
            f"{got}. Run the same command again to resume: the trainings that are stored are kept."
        )

    def _start_slots(self) -> list[_Slot]:
        """Return the worker processes by device; they start with their first job."""
        if not self._slots:
            import cloudpickle

            _pickle_task_files_by_value()
            try:
                initargs = (list(sys.path), cloudpickle.dumps(self._workload.on(devices.AUTO)))
            except Exception as error:  # objects that cannot be pickled raise many kinds of error
                raise self._cannot_continue(f"{error}, which keeps it out of a worker process") from error
            if self._on_cpu:
                self._slots = [_Slot(self._num_workers, self._devices[0], sys.maxsize, initargs)]
            else:
                count = max(1, self._num_workers)
                self._slots = [_Slot(1, self._devices[k % len(self._devices)], 1, initargs) for k in range(count)]
        return self._slots

    def _run_in_workers(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, list[TrainingResult] | DeviceLost | str]]:
        """Yield jobs as they end, with a message instead of results where a worker died or hangs."""
        # The longest first, so that no worker is left alone with a long one in the end.
        ordered = sorted(jobs, key=lambda job: -job.predicted_s)
        running: dict[Future[list[TrainingResult]], tuple[Job, _Slot]] = {}
        slots, position = self._start_slots(), 0
        last_s = monotonic()
        timeout_s = MIN_TIMEOUT_S + TIMEOUT_FACTOR * max((job.predicted_s for job in ordered), default=0.0)
        while running or position < len(ordered):
            try:
                with _interrupts_delayed():
                    for slot in slots:
                        while slot.room > 0 and position < len(ordered):
                            running[slot.submit(ordered[position])] = ordered[position], slot
                            position += 1
            except BrokenProcessPool:
                yield ordered[position], _DIED
                return
            ended, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
            if ended:
                last_s = monotonic()
            elif monotonic() - last_s > timeout_s:
                job, _ = next(iter(running.values()))
                yield job, f"no worker process has finished a job for {timeout_s:.0f} s"
                return
            for future in ended:
                job, slot = running.pop(future)
                slot.room += 1
                results = _result(future)
                if isinstance(results, DeviceLost):
                    slot.close()
                yield job, results


def _train(workload: Workload, job: Job, report_share: Callable[[float], None]) -> list[TrainingResult]:
    results = workload.train(job.contenders, job.trials, job.schedule, report_share, job.rungs)
    hardware = devices.hardware(workload.device)
    return [replace(result, hardware=hardware) for result in results]


def _failed(message: str, device: str) -> TrainingResult:
    """Return the result of a training that has made its device useless; its name is no longer asked for."""
    return TrainingResult("failed", message=message, hardware=device)


def _result(future: "Future[list[TrainingResult]]") -> list[TrainingResult] | DeviceLost | str:
    try:
        return future.result()
    except BrokenProcessPool:
        return _DIED
    except DeviceLost as lost:
        return lost


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


def _initialize_worker(path: list[str], pickled: bytes, device: str) -> None:
    """Prepare a worker process, with its task on a device.

    Task output goes to stderr, because stdout carries results.
    """
    sys.path[:] = path  # before any of the user's objects is unpickled
    sys.stdout = sys.stderr
    Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    workload = pickle.loads(pickled).on(device)  # noqa: S301 (pickled by the parent)
    devices.use(workload.device)
    _WORKLOAD[:] = [workload]


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
