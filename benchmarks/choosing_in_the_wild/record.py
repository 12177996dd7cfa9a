"""The record: the truth of each training, condensed from the bank."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy
import optuna
import scipy
import sklearn
import torch

from benchmarks.choosing_in_the_wild.bank import TRUTH_SEEDS, VALUE_SEEDS, Bank, MissingTrainingError, source_of
from benchmarks.choosing_in_the_wild.training import Training, mean_of
from benchmarks.choosing_in_the_wild.truth import LEVELS, best_untuned, finished_search
from thalweg.bench.records import machine

DIGITS = 6


def rounded(value: float) -> float | None:
    """Return a number for the record; None if it is not finite."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def value_of(
    bank: Bank, training: Training, contender: str, settings: Mapping[str, Any], seeds: Sequence[int]
) -> dict[str, Any] | None:
    """Return the mean score of a setting over seeds, as the record holds it; None if the bank lacks a training."""
    try:
        mean = mean_of(bank.costs(training, contender, settings, seeds, "test"))
        validation = mean_of(bank.costs(training, contender, settings, seeds, "validation"))
    except MissingTrainingError:
        return None
    return {
        "settings": dict(settings),
        "test": rounded(training.score(mean.cost)),
        "validation": rounded(training.score(validation.cost)),
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
        best = None if finished is None else value_of(bank, training, contender, finished[1], VALUE_SEEDS)
        if finished is None or best is None:
            contenders[contender] = {"level": 0, "trainings": len(own)}
            continue
        contenders[contender] = {
            "level": finished[0],
            "trainings": len(own),
            "diverged": sum(row["validation"] is None for row in own),
            "seconds": rounded(median(row["seconds"] for row in own)),
            "best": best,
        }
    known = {name: entry["best"] for name, entry in contenders.items() if entry["level"]}
    # By other seeds than those that measure it: the best of many means is lucky.
    chosen = {
        name: mean_of(bank.costs(training, name, best["settings"], TRUTH_SEEDS, "test")).cost
        for name, best in known.items()
    }
    best_contender = min(chosen, key=lambda name: chosen[name]) if chosen else None
    if best_contender is not None:
        for name, best in known.items():
            contenders[name]["regret"] = rounded(training.regret(best["cost"], known[best_contender]["cost"]))
    values = [
        {"contender": contender, **value}
        for contender in training.contenders
        for settings in bank.evaluated(training, contender)
        if (value := value_of(bank, training, contender, settings, TRUTH_SEEDS)) is not None
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
        "best": best_contender,
        "best_untuned": _untuned(bank, training),
        "contenders": contenders,
        "values": sorted(values, key=lambda value: value["cost"]),
    }


def _untuned(bank: Bank, training: Training) -> dict[str, Any] | None:
    """The best untuned setting with its value; None if the bank lacks a training."""
    try:
        contender, settings = best_untuned(bank, training)
    except MissingTrainingError:
        return None
    value = value_of(bank, training, contender, settings, VALUE_SEEDS)
    return None if value is None else {"contender": contender, **value}


def condense(bank: Bank, trainings: Mapping[str, Training]) -> dict[str, Any]:
    """Return the record: machine, versions, the levels of the search, and the truth of each training."""
    versions = {module.__name__: module.__version__ for module in (torch, numpy, scipy, sklearn, optuna)}
    return {
        "machine": machine(),
        "versions": versions,
        "seeds_of_the_truth": [TRUTH_SEEDS[0], TRUTH_SEEDS[-1]],
        "seeds_of_the_values": [VALUE_SEEDS[0], VALUE_SEEDS[-1]],
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
