"""The judge: the regret of what a method recommends, against the truth of the record."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks.choosing_in_the_wild.bank import Bank, source_of
from benchmarks.choosing_in_the_wild.methods import METHODS, Recommendation, Request
from benchmarks.choosing_in_the_wild.training import Training, run

RECORD = Path(__file__).parents[1] / "records" / "choosing_in_the_wild.json"
TIMED = ("sgd", "adam", "rmsprop")  # the time of a training is the median of theirs
NORMAL_QUANTILE = 1.96  # two-sided 95 %


def load_record(path: Path = RECORD) -> dict[str, Any]:
    """Return the record of the truth."""
    return json.loads(path.read_text())


def parse_budget(text: str) -> int:
    """Return the number of trainings of a budget such as ``60trainings``.

    Raises:
        ValueError: If the text is no such budget.

    Example:
        >>> parse_budget("60trainings")
        60
    """
    number = text.removesuffix("trainings")
    if number == text or not number.isdigit() or int(number) < 1:
        raise ValueError(f"regret: a budget must read like 60trainings, got {text!r}.")
    return int(number)


def time_of_training(training: Training, **options: Any) -> float:
    """Return the seconds of a training on this machine at this moment, after one that warms it up."""
    names = [name for name in TIMED if name in training.contenders]
    run(training, names[0], {}, 0, **options)
    return median(run(training, name, {}, 0, **options).seconds for name in names)


def best_of(record: Mapping[str, Any], training: Training) -> tuple[tuple[str, ...], float]:
    """Return the contenders whose truth is known, and the mean cost of the best of them.

    Raises:
        LookupError: If the record has no truth of this version of the training.
    """
    entry = record["trainings"].get(training.name)
    if entry is None or entry["best"] is None or entry["source"] != source_of(training.train):
        raise LookupError(f"{training.name}: the record has no truth of it. Run search and condense first.")
    known = {name: item["best"]["cost"] for name, item in entry["contenders"].items() if item["level"]}
    return tuple(known), known[entry["best"]]


def regret_of(bank: Bank, training: Training, recommendation: Recommendation, best: float) -> dict[str, Any]:
    """Return the true value of a recommendation and its regret; a refusal counts as a training that learned nothing."""
    if recommendation.contender is None:
        cost, error = training.cost(math.nan), 0.0
    else:
        mean = bank.true_value(training, recommendation.contender, recommendation.settings)
        cost, error = mean.cost, mean.error
    interval = recommendation.interval
    costs = None if interval is None else tuple(sorted(training.cost(end) for end in interval))
    covered, covered_with_error = (None, None) if costs is None else covers(*costs, cost, error)
    return {
        "contender": recommendation.contender,
        "settings": recommendation.settings,
        "trainings": recommendation.trainings,
        "note": recommendation.note,
        "test": training.score(cost),
        "standard_error": error,
        "regret": training.regret(cost, best),
        "interval": recommendation.interval,
        "covered": covered,
        "covered_with_error": covered_with_error,
    }


def covers(low: float, high: float, cost: float, error: float) -> tuple[bool, bool]:
    """Return whether an interval of costs covers a mean cost, and whether it does with the error of that mean.

    The mean is itself estimated, from some seeds. So an exact interval misses it more often than the true mean. With
    its error, half the length of the interval is added in quadrature to 1.96 standard errors of the mean.

    Args:
        low: The lower end of the interval.
        high: The upper end.
        cost: The mean cost.
        error: The standard error of the mean cost.
    """
    allowed = math.hypot((high - low) / 2, NORMAL_QUANTILE * error)
    return low <= cost <= high, abs(cost - (low + high) / 2) <= allowed


def judge(
    bank: Bank, record: Mapping[str, Any], training: Training, method: str, budget: str, repeat: int, *, count: bool
) -> dict[str, Any]:
    """Run a method once and return the row of its regret.

    Args:
        bank: The bank, which trains what the true value needs.
        record: The record of the truth.
        training: The training.
        method: The name of the method.
        budget: The budget; the method gets the wall time of so many trainings.
        repeat: The number of the repeat, from 0.
        count: True to limit the number of trainings too, for methods that count.
    """
    contenders, best = best_of(record, training)
    number = parse_budget(budget)
    seconds = number * time_of_training(training)
    request = Request(training, contenders, seconds, repeat, number if count else None)
    began = time.perf_counter()
    recommendation = METHODS[method](request)
    wall_s = time.perf_counter() - began
    return {
        "training": training.name,
        "source": source_of(training.train),
        "method": method,
        "budget": budget,
        "repeat": repeat,
        "seconds": seconds,
        "wall_s": wall_s,
        **regret_of(bank, training, recommendation, best),
    }


def summarize(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield for each method and budget the numbers that count.

    Yields:
        The method, the budget, and: runs, median regret, its 90th percentile, the median share of the time that was
        used, the refusals, and the shares of stated intervals that cover the mean of 20 seeds, without and with its
        error (not a number if none is stated).
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["budget"]), []).append(row)
    for (method, budget), members in groups.items():
        regrets = [row["regret"] for row in members]
        covered = {
            key: fmean([row[key] for row in members if row[key] is not None] or [math.nan])
            for key in ("covered", "covered_with_error")
        }
        yield (
            method,
            budget,
            {
                "runs": len(members),
                "median": median(regrets),
                "p90": float(np.quantile(regrets, 0.9)),
                "time_used": median(row["wall_s"] / row["seconds"] for row in members),
                "refused": sum(row["contender"] is None for row in members),
                **covered,
            },
        )
