"""A small workload, and worker pools that train it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import thalweg
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.execution.job import Job
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import Workload, as_workload
from thalweg.tasks import as_task

SCHEDULE = TrainingSchedule(steps=20, schedule="linear", num_evaluations=2)
SGD = CONTENDERS["sgd"]


def task(model: Callable[[], nn.Module] = lambda: nn.Linear(3, 1)) -> thalweg.Task:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    return thalweg.Task(
        model=model, loss=thalweg.supervised(nn.functional.mse_loss), data=(x, x.sum(1, True)), passes=4
    )


def workload(model: Callable[[], nn.Module] = lambda: nn.Linear(3, 1)) -> Workload:
    return as_workload(task(model))


def jobs(*lrs: float, seeds: tuple[int, ...] = (0, 1)) -> list[Job]:
    trials = {lr: tuple(Trial({"lr": lr}, seed) for seed in seeds) for lr in lrs or (0.01, 0.1, 0.2)}
    return [Job((SGD,) * len(seeds), trials[lr], SCHEDULE, 0.1) for lr in trials]


def run(pool: WorkerPool, requested: list[Job]) -> Iterator[tuple[float, list[TrainingResult]]]:
    """Run jobs and yield the learning rate and the results of each as it ends."""
    ended = set()
    for job, results in pool.run(requested, lambda job, share: None):
        ended.add(job)
        yield job.trials[0].settings["lr"], results
    assert ended == set(requested)


def losses(trained: Workload, count: int, notices: list[str]) -> dict[float, list[float]]:
    """Return the test losses of all jobs, by learning rate, with this number of workers."""
    with WorkerPool(trained, count, notices.append) as pool:
        return {lr: [result.test for result in results] for lr, results in run(pool, jobs())}


def trained_here(trained: Workload) -> dict[float, list[float]]:
    return {
        job.trials[0].settings["lr"]: [
            result.test for result in trained.train(job.contenders, job.trials, job.schedule)
        ]
        for job in jobs()
    }


def ended(function: Callable[..., None], count: int = 1, **options: Any) -> tuple[dict[int, TrainingResult], list[str]]:
    """Return the results of a training function by seed, from 0 to 2; and the notices."""
    notices: list[str] = []
    requested = [Job((SGD,), (Trial({"lr": 0.1}, seed),), SCHEDULE, 0.1) for seed in range(3)]
    with WorkerPool(as_workload(as_task(function)), count, notices.append, **options) as pool:
        return {job.trials[0].seed: results[0] for job, results in pool.run(requested, lambda *_: None)}, notices
