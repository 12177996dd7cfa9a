"""Evidence: the committed records of measurements, by rule and by contender."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.choosing_in_the_wild import truth_tables
from benchmarks.choosing_in_the_wild.bank import stored_rows

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "benchmarks" / "records"
NEAR_BEST = 0.1  # of a cost: a loss that is 10 % higher


@cache
def record(name: str) -> Any:
    """Return a committed record."""
    return json.loads((RECORDS / f"{name}.json").read_text())


@dataclass(frozen=True)
class TunedTraining:
    """The best settings of one contender in one training of `benchmarks/choosing_in_the_wild`.

    Attributes:
        training: The name of the training.
        about: Its model and data.
        schedule: Its learning rate schedule.
        contender: The name of the contender.
        lr: The best learning rate.
        lr_range: The lowest and highest learning rate of all settings that came near the best; None if fewer than two.
        worse_by: How much worse its best setting is than that of the best contender, in words.
    """

    training: str
    about: str
    schedule: str
    contender: str
    lr: float
    lr_range: tuple[float, float] | None
    worse_by: str


def tuned_trainings(contender: str) -> list[TunedTraining]:
    """Return the trainings in which a contender was tuned, with its best learning rates."""
    results = []
    for name, training in record("choosing_in_the_wild")["trainings"].items():
        best = training["contenders"].get(contender, {}).get("best")
        if not best:
            continue
        about = training["about"].removesuffix(f", {training['schedule']} learning rate")
        results.append(
            TunedTraining(
                training=name,
                about=about,
                schedule=training["schedule"],
                contender=contender,
                lr=best["settings"].get("lr", _default_rate(contender)),
                lr_range=_near_best(name, contender),
                worse_by=_behind_best(training, training["contenders"][contender]["regret"]),
            )
        )
    return results


def _default_rate(contender: str) -> float:
    from thalweg.comparison import parse

    return float(parse(contender).start_settings()["lr"])


def _behind_best(training: dict[str, Any], regret: float) -> str:
    """Return a regret in words, with the name of its unit if it is not a share."""
    if regret == 0:
        return "best"
    words = truth_tables.worse_by(training, regret)
    if training["scale"] == "log":
        return words
    name = training["metric"]
    return f"{words} dB" if name.endswith("dB") else f"{words} in {name}"


@cache
def _bank() -> dict[tuple[str, str], list[dict[str, Any]]]:
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in stored_rows():
        rows[row["training"], row["contender"]].append(row)
    return rows


def _near_best(training: str, contender: str) -> tuple[float, float] | None:
    """Return the range of learning rates of settings whose mean validation cost is near the least one."""
    facts = record("choosing_in_the_wild")["trainings"][training]
    costs: dict[str, list[float]] = defaultdict(list)
    for row in _bank()[training, contender]:
        if row["source"] == facts["source"] and row["validation"] is not None and "lr" in row["settings"]:
            costs[json.dumps(row["settings"])].append(_cost(facts, row["validation"]))
    means = {settings: sum(values) / len(values) for settings, values in costs.items()}
    if not means:
        return None
    limit = min(means.values()) + NEAR_BEST
    rates = [json.loads(settings)["lr"] for settings, cost in means.items() if cost <= limit]
    return (min(rates), max(rates)) if len(rates) > 1 else None


def _cost(facts: dict[str, Any], score: float) -> float:
    if facts["scale"] == "log":
        return math.log(max(score, 1e-300))
    return (-score if facts["maximize"] else score) / facts["unit"]


def transferred_rates(contender: str) -> list[dict[str, Any]]:
    """Return the rows of `transfer.json` of a contender: tasks with its best learning rate on a grid."""
    return [row for row in record("transfer")["rows"] if row["target"] == contender]


def recommended(contender: str) -> dict[str, Any] | None:
    """Return the entry of `recommended.json` of a contender; None if it was not measured."""
    entry: dict[str, Any] | None = record("recommended")["contenders"].get(contender)
    return entry


def step_times(expression: str) -> dict[str, Any] | None:
    """Return the row of `rules.json` of a rule or wrapper; None if it was not measured."""
    return next((row for row in record("rules")["rows"] if row["rule"] == expression), None)


def matrix_step_times(name: str) -> list[dict[str, Any]]:
    """Return the rows of `matrices.json` of a rule."""
    return [row for row in record("matrices")["rows"] if row["rule"] == name]


def agreement(class_name: str) -> dict[str, Any] | None:
    """Return the entry of `catalogue.json` of a rule or wrapper with the largest error; None if there is none."""
    catalogue = record("catalogue")
    entries = [entry for part in ("rules", "wrappers") for entry in catalogue[part] if entry["name"] == class_name]
    return max(entries, key=lambda entry: float(entry["error"]), default=None)


def findings(class_name: str) -> list[dict[str, Any]] | None:
    """Return the findings of the conformance kit on an optimizer; None if it was not checked."""
    checked = record("conformance")["libraries"]["thalweg.optim"]["optimizers"].get(class_name)
    return checked if isinstance(checked, list) else None
