"""The record: the truth of each training, condensed from the bank."""

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy
import optuna
import scipy
import sklearn
import torch

from benchmarks.choosing_in_the_wild.bank import TRUTH_SEEDS, Bank, MissingTrainingError, source_of
from benchmarks.choosing_in_the_wild.training import Training
from benchmarks.choosing_in_the_wild.truth import LEVELS, ranked_by, search, starting_points
from thalweg.bench.records import machine

DIGITS = 6


def rounded(value: float) -> float | None:
    """Return a number for the record; None if it is not finite."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def finished_search(bank: Bank, training: Training, contender: str) -> tuple[int, list[dict[str, Any]]] | None:
    """Return the largest level of search that is complete in a bank that does not train, and its finalists.

    Returns:
        The level, counted from 1, and the finalists; None if no level is complete.
    """
    for level in range(len(LEVELS), 0, -1):
        try:
            return level, search(bank, training, contender, LEVELS[level - 1])
        except MissingTrainingError:
            continue
    return None


def value_of(bank: Bank, training: Training, contender: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the true value of a setting, as the record holds it; None if the bank lacks a training."""
    try:
        mean = bank.true_value(training, contender, settings)
        validation = bank.costs(training, contender, settings, TRUTH_SEEDS, "validation")
    except MissingTrainingError:
        return None
    return {
        "settings": dict(settings),
        "test": rounded(training.score(mean.cost)),
        "validation": rounded(training.score(sum(validation) / len(validation))),
        "cost": rounded(mean.cost),
        "standard_error": rounded(mean.error),
    }


def condensed_training(bank: Bank, training: Training) -> dict[str, Any]:
    """Return the truth of a training as far as the bank knows it."""
    rows = bank.rows(training)
    contenders: dict[str, Any] = {}
    for contender in training.contenders:
        own = [row for row in rows if row["contender"] == contender]
        finished = finished_search(bank, training, contender)
        if finished is None:
            contenders[contender] = {"level": 0, "trainings": len(own)}
            continue
        level, finalists = finished
        # The best of all that were ever evaluated, also of what a judged method recommended.
        candidates = [*finalists, *bank.evaluated(training, contender)]
        best_settings = ranked_by(bank, training, contender, candidates, TRUTH_SEEDS)[0]
        starts = (value_of(bank, training, contender, start) for start in starting_points(contender))
        contenders[contender] = {
            "level": level,
            "trainings": len(own),
            "diverged": sum(row["validation"] is None for row in own),
            "seconds": rounded(median(row["seconds"] for row in own)),
            "best": value_of(bank, training, contender, best_settings),
            "starts": [start for start in starts if start is not None],
        }
    known = {name: entry["best"]["cost"] for name, entry in contenders.items() if entry["level"]}
    best = min(known, key=lambda name: known[name]) if known else None
    if best is not None:
        for name, cost in known.items():
            contenders[name]["regret"] = rounded(training.regret(cost, known[best]))
    values = [
        {"contender": contender, **value}
        for contender in training.contenders
        for settings in bank.evaluated(training, contender)
        if (value := value_of(bank, training, contender, settings)) is not None
    ]
    return {
        "about": training.about,
        "steps": training.steps,
        "schedule": training.schedule,
        "metric": training.metric,
        "maximize": training.maximize,
        "scale": training.scale,
        "unit": training.unit,
        "worst": training.worst,
        "source": source_of(training.train),
        "best": best,
        "contenders": contenders,
        "values": sorted(values, key=lambda value: value["cost"]),
    }


def condense(bank: Bank, trainings: Mapping[str, Training]) -> dict[str, Any]:
    """Return the record: machine, versions, the levels of the search, and the truth of each training."""
    versions = {module.__name__: module.__version__ for module in (torch, numpy, scipy, sklearn, optuna)}
    return {
        "machine": machine(),
        "versions": versions,
        "seeds_of_the_truth": [TRUTH_SEEDS[0], TRUTH_SEEDS[-1]],
        "levels": [vars(level) for level in LEVELS],
        "trainings": {name: condensed_training(bank, training) for name, training in trainings.items()},
    }


def lost_truths(earlier: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Return the contenders whose truth an earlier record has and a new one lacks, as ``adam of vae``."""
    return [
        f"{contender} of {name}"
        for name, training in record["trainings"].items()
        for contender, entry in earlier["trainings"].get(name, {"contenders": {}})["contenders"].items()
        if entry["level"] and not training["contenders"].get(contender, {"level": 0})["level"]
    ]
