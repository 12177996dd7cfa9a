"""Verification: a sick training fails, its cure works, and a healthy training works, from several seeds."""

import time
import warnings
from collections.abc import Callable
from statistics import fmean

import torch

from benchmarks.doctor.rows import Row
from benchmarks.doctor.trainings.cases import Case
from benchmarks.doctor.trainings.run import Run, measured, train

TAIL = 20  # steps whose mean loss is the last loss


def result(make: Callable[[int], Run], seed: int) -> Row:
    """Train a run and return its first loss, its last loss, its metric and its goal."""
    run = make(seed)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some faults cause warnings of torch's
        losses = train(run)
    return {
        "first_loss": losses[0],
        "last_loss": fmean(losses[-TAIL:]),
        "metric": measured(run),
        "goal": run.goal,
        "seconds": time.perf_counter() - began,
    }


def verify(case: Case, seed: int) -> Row:
    """Return the results of a case from a seed, and whether it is what it says."""
    torch.set_num_threads(1)
    original = result(case.make, seed)
    cured = result(case.cure, seed) if case.cure is not None else None
    works = original["metric"] >= original["goal"]
    as_said = works if cured is None else not works and cured["metric"] >= cured["goal"]
    return {
        "case": case.key,
        "seed": seed,
        "held_out": case.held_out,
        "as_said": as_said,
        "original": original,
        "cured": cured,
    }
