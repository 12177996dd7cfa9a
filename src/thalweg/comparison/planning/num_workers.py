"""Number of workers: measure whether worker processes train faster than this process alone."""

import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.planning.pilot import ExecutionMode, seconds_of
from thalweg.comparison.training.runs import PopulationRun, Trial
from thalweg.rules import Rule
from thalweg.tasks import Task, seeded

HIRING_S = 6.0  # to start workers: they import torch


CLEARLY_FASTER = 1.25


def choose_num_workers(
    task: Task,
    contenders: Sequence[Contender],
    execution_modes: dict[str, ExecutionMode],
    planned_s: float,
    seed: int,
    *,
    asked: int | None,
) -> tuple[int, dict[str, ExecutionMode]]:
    """How many workers pay, and the ways with the time that a training then takes in all.

    Measured on one contender: the same step with one thread. `asked` decides instead of the measurement.
    """
    contender = min(contenders, key=lambda one: (not isinstance(one.rule, Rule), one.full_batch))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    hired = cores if asked is None else asked
    if hired < 2 or (asked is None and planned_s < 4 * HIRING_S) or not _can_travel(task, contenders):
        return 1, execution_modes
    mode, threads = execution_modes[contender.name], torch.get_num_threads()
    trial = Trial({}, seed)
    try:
        with seeded(seed):
            run = PopulationRun(task, contender, [trial] * max(2, mode.members))
            run.step(0.0)
            together_s = seconds_of(lambda: run.step(0.0))
            torch.set_num_threads(1)
            alone_s = seconds_of(lambda: run.step(0.0))
    except Exception:  # what vmap cannot take is trained one by one, where nothing was measured
        together_s = alone_s = 1.0
    finally:
        torch.set_num_threads(threads)
    gain = hired * together_s / alone_s
    if asked is None and gain < CLEARLY_FASTER:
        return 1, execution_modes
    told = f", in {hired} processes with one thread each"
    return hired, {
        name: replace(one, fixed_s=one.fixed_s / gain, member_s=one.member_s / gain, reason=one.reason + told)
        for name, one in execution_modes.items()
    }


def _can_travel(task: Task, contenders: Sequence[Contender]) -> bool:
    """Whether a task and its contenders can be sent to another process."""
    import cloudpickle

    try:
        return len(cloudpickle.dumps((task, list(contenders)))) < 1 << 28
    except Exception:  # what cannot be pickled says so in many ways
        return False
