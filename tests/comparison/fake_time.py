"""A clock that trainings advance, workers on this clock, and a training function that takes a given time."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import torch
from torch import nn

import thalweg
from thalweg.comparison.execution.job import Job
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.workload import Workload

CONTENDERS = ["sgd", "momentum", "adam", "rmsprop"]


class FakeTime:
    """A clock that trainings advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def read(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakePool:
    """Workers on a made-up clock: jobs side by side begin at the same time, and one past its deadline is killed."""

    time: FakeTime

    def __init__(self, workload: Workload, num_workers: int, *_: Any) -> None:
        self.workload, self.num_workers = workload, num_workers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, jobs: Iterable[Job], report_share: Any, deadline_s: float) -> Iterator[tuple[Job, list[Any]]]:
        waiting = iter(jobs)
        while batch := list(itertools.islice(waiting, self.num_workers)):
            start_s = last_s = self.time.now
            for job in batch:
                self.time.now = start_s
                results = self.workload.train(job.contenders, job.trials, job.schedule, stop_at_s=job.stop_at_s)
                killed, last_s = self.time.now > deadline_s, max(last_s, min(self.time.now, deadline_s))
                if not killed:
                    yield job, results
            self.time.now = last_s


def training(
    time: FakeTime, seconds: float | Callable[[int], float], *, reports: int = 5, stop: int = 0
) -> Callable[..., None]:
    """Return a training function that takes so long, always or by its number; the one of ``stop`` is Ctrl-C."""
    numbers = itertools.count(1)

    def train(make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
        number = next(numbers)
        if number == stop:
            raise KeyboardInterrupt
        weight = nn.Parameter(torch.tensor([1.0, 3.0]) + 0.1 * torch.rand(2))
        optimizer = make_optimizer([weight])
        for _ in range(reports):
            optimizer.zero_grad()
            (0.5 * weight.square().sum() + 0.01).backward()
            optimizer.step()
            time.advance((seconds(number) if callable(seconds) else seconds) / reports)
            report((0.5 * weight.square().sum() + 0.01).item())

    train.calls = numbers  # type: ignore[attr-defined]
    return train


def trials_of(comparison: thalweg.Comparison) -> list[TrialRecord]:
    return comparison.store.trials(comparison.record.id)


def facts(comparison: thalweg.Comparison) -> tuple[Any, list[Any]]:
    """Return the verdict and the trainings with their results, without times."""
    trials = [(trial.key, trial.settings, trial.result.validation) for trial in trials_of(comparison)]
    return vars(comparison.verdict), sorted(trials, key=lambda trial: trial[0])
