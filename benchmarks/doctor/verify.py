"""Verification: a sick training fails, its cure works, and a healthy training works, from several seeds."""

import time
import warnings
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from benchmarks.doctor.cases import Case
from benchmarks.doctor.run import Run, measured, train

TAIL = 20  # steps whose mean loss is the last loss


def result(run: Run) -> dict[str, Any]:
    """Train a run and return its first loss, its last loss, its metric and its goal."""
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


def verify(case: Case, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the results of a case from each seed, and whether it is what it says on all of them."""
    torch.set_num_threads(1)
    original = [result(case.make(seed)) for seed in seeds]
    cured = [result(case.cure(seed)) for seed in seeds] if case.cure is not None else []
    works = [outcome["metric"] >= outcome["goal"] for outcome in original]
    holds = all(works) if case.cure is None else not any(works)
    return {
        "kind": case.kind,
        "name": case.name,
        "where": case.where,
        "held_out": case.held_out,
        "curable": case.curable,
        "as_said": holds and all(outcome["metric"] >= outcome["goal"] for outcome in cured),
        "original": original,
        "cured": cured,
    }
