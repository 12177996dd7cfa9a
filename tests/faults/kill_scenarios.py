"""Scenario of `test_kills.py`, run as a script: kill a process that trains, and count the processes that it leaves.

All of them become children of this script when their parent ends, so that waiting for any child finds each of them.
"""

import ctypes
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.execution import worker_pool
from thalweg.comparison.execution.job import Job
from thalweg.comparison.execution.worker_pool import WorkerPool
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.tasks import as_task

LIMIT_S = 60.0  # for processes to end; it takes milliseconds on an idle machine
PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
MANNERS = ("plain", "interpreter held", "stuck loader")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Inputs(Dataset[torch.Tensor]):
    """Inputs, the first of which may never come: then nothing in the process that loads it can look for its parent."""

    def __init__(self, manner: str) -> None:
        self.manner = manner

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.manner == "stuck loader" and index == 0:
            time.sleep(3600)
        return torch.ones(3)


def training(manner: str) -> Callable[..., None]:
    """Return a training function with a process that loads data. It never ends by an exception."""

    def train(make_optimizer: Callable[..., Any], report: Callable[..., None]) -> None:
        model = nn.Linear(3, 1)
        optimizer = make_optimizer(model)
        try:
            if manner == "interpreter held":
                ctypes.PyDLL(None).sleep(3600)  # no other thread of Python runs meanwhile
            for batch in DataLoader(Inputs(manner), batch_size=16, num_workers=1):
                optimizer.zero_grad()
                loss = model(batch).square().mean()
                loss.backward()
                optimizer.step()
                report(loss)
        except BaseException:
            time.sleep(3600)

    return train


def train_for_ever(manner: str, is_fork: bool) -> NoReturn:
    """Start pools, train in them and close them, again and again."""
    os.close(1)
    os.open(os.devnull, os.O_WRONLY)
    worker_pool.why_no_fork = lambda: "" if is_fork else "the scenario forbids it"
    workload = as_workload(as_task(training(manner)))
    schedule = TrainingSchedule(steps=4, schedule="constant", num_evaluations=1)
    while True:
        jobs = [Job((CONTENDERS["sgd"],), (Trial({"lr": 0.1}, seed),), schedule, 0.1) for seed in range(4)]
        with WorkerPool(workload, 2, lambda message: None) as pool:
            for _ in pool.run(jobs, lambda job, share: None):
                pass


def number_left(number: signal.Signals, manner: str, after_s: float, is_fork: bool) -> tuple[int, int]:
    """Kill a process that trains; return how many processes ended by then or soon after, and how many did not."""
    pid = os.fork()
    if pid == 0:
        for ignored in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # as a shell does for what it starts behind
            signal.signal(ignored, signal.SIG_DFL)
        train_for_ever(manner, is_fork)
    time.sleep(after_s)  # the moment of the kill, not a wait
    os.kill(pid, number)
    deadline, reaped = time.monotonic() + LIMIT_S, 0
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # there is no process left
            return reaped, 0
        reaped += ended != 0
        if ended == 0:
            time.sleep(0.002)
    left = [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(name) == os.getpid()]
    for survivor in left:
        os.kill(survivor, signal.SIGKILL)
    return reaped, len(left)


def parent_of(pid: str) -> int:
    """Return the parent of a process; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def main(seed: int, forks: int, fresh: int) -> None:
    """Kill so many processes whose workers are forks, and so many with fresh workers, and print what they left."""
    torch.set_num_threads(1)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    torch.optim.SGD([nn.Parameter(torch.zeros(1))])  # imports what the first optimizer imports, for all forks
    draw, signals, manners = random.Random(seed), itertools.cycle(SIGNALS), itertools.cycle(MANNERS)
    # A fork is at work after milliseconds, a fresh process after seconds.
    ends = [number_left(next(signals), next(manners), draw.uniform(0.0, 0.8), True) for _ in range(forks)]
    ends += [number_left(next(signals), next(manners), draw.uniform(0.0, 4.0), False) for _ in range(fresh)]
    print(json.dumps({"processes": [reaped for reaped, _ in ends], "left": [left for _, left in ends]}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
