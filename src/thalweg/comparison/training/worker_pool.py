"""Crew: who trains. This process, or as many worker processes as there are cores, with one thread each.

For small networks the second thread of a training gains little, a second training gains everything. Workers come from
loky, which carries functions of the user's own there and says when one has died.
"""

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread, current_thread, main_thread
from typing import Any, Self

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.pruning import Rungs
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.trainer import train_all
from thalweg.tasks import Task, TrainingFunction
from thalweg.tasks.catalogue import FILE_MODULE

# Workers count as hanging after this, and so many times a job's predicted seconds.
LEAST_PATIENCE_S, PATIENCE = 60.0, 20


@dataclass(frozen=True, eq=False)
class Job:
    """Trainings that are run together, each with its contender."""

    contenders: tuple[Contender, ...]
    trials: tuple[Trial, ...]
    schedule: TrainingSchedule
    predicted_s: float
    rungs: Rungs | None = None


class WorkerPool:
    """Does jobs, in this process or in workers. Used as a context: at its end no worker is left."""

    def __init__(self, task: Task | TrainingFunction, workers: int, say: Callable[[str], None]) -> None:
        self._task, self._workers, self._say = task, workers, say
        self._executor: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss()

    def _dismiss(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None

    def results(
        self, jobs: Sequence[Job], tell: Callable[[Job, float], None]
    ) -> Iterator[tuple[Job, list[TrainingResult]]]:
        """Each job with its results, as they end; `tell` hears the share of a job that is done in this process."""
        if self._workers < 2 or len(jobs) < 2:
            for job in jobs:
                yield job, self._here(job, tell)
            return
        left = list(jobs)
        for attempt in range(2):
            broken = None
            for job, results in self._in_workers(left):
                if isinstance(results, str):
                    broken = results
                    break
                left.remove(job)
                yield job, results
            if broken is None:
                return
            self._dismiss()
            again = "once more, in new ones" if attempt == 0 else "here, one after the other"
            self._say(f"{broken}; what it had not finished is trained {again}")
        for job in left:
            yield job, self._here(job, tell)

    def _hired(self) -> Any:
        """The workers, who are started by the first job."""
        if self._executor is None:
            import cloudpickle
            import loky

            _pack_task_files()
            packed = cloudpickle.dumps(self._task)
            self._executor = loky.ProcessPoolExecutor(
                self._workers, initializer=_start, initargs=(list(sys.path), packed)
            )
        return self._executor

    def _here(self, job: Job, tell: Callable[[Job, float], None]) -> list[TrainingResult]:
        return train_all(
            self._task, job.contenders, job.trials, job.schedule, lambda share: tell(job, share), job.rungs
        )

    def _in_workers(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, list[TrainingResult] | str]]:
        """Jobs as they end; with a text instead of results where a worker died or hangs."""
        # The longest first, so that no worker is left alone with a long one in the end.
        ordered = sorted(jobs, key=lambda job: -job.predicted_s)
        try:
            with _uninterrupted():
                running = {self._hired().submit(_train, job): job for job in ordered}
        except BrokenProcessPool:
            yield ordered[0], "a worker process has died"
            return
        last_s = time.monotonic()
        patience_s = LEAST_PATIENCE_S + PATIENCE * max((job.predicted_s for job in ordered), default=0.0)
        while running:
            ended, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            if ended:
                last_s = time.monotonic()
            elif time.monotonic() - last_s > patience_s:
                yield next(iter(running.values())), f"no worker process has finished anything for {patience_s:.0f} s"
                return
            for future in ended:
                yield _ended(future, running.pop(future))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Have Ctrl-C wait: workers that are half started could not be dismissed, and would hold on for a while."""
    if current_thread() is not main_thread():  # which alone is interrupted
        yield
        return
    pressed: list[bool] = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)


def _ended(future: "Future[list[TrainingResult]]", job: Job) -> tuple[Job, list[TrainingResult] | str]:
    try:
        return job, future.result()
    except BrokenProcessPool:
        return job, "a worker process has died"


_TASK: list[Task | TrainingFunction] = []


def _start(path: list[str], packed: bytes) -> None:
    """What a worker does first. What a task prints is talk: stdout is for results."""
    sys.path[:] = path  # before anything of the user's is unpacked
    sys.stdout = sys.stderr
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    _TASK[:] = [pickle.loads(packed)]  # noqa: S301 (packed by the parent)


def _end_with(parent: int) -> None:
    """End this worker when its parent is gone: who was killed cannot dismiss anyone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _train(job: Job) -> list[TrainingResult]:
    return train_all(_TASK[0], job.contenders, job.trials, job.schedule, rungs=job.rungs)


def _pack_task_files() -> None:
    """Have what was read from task files sent whole: a worker cannot import it by a name."""
    import cloudpickle

    for name, module in list(sys.modules.items()):
        if name.startswith(FILE_MODULE):
            cloudpickle.register_pickle_by_value(module)
