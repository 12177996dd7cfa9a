"""Tables of the true best settings: contenders beside each other on each training, and the learning rates that won."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from thalweg.registry import RULES

NBSP = "\N{NO-BREAK SPACE}"
CERTAIN = 2.0  # standard errors of a difference
_STEPS = (0.05, 0.10)  # shares by which a contender may be worse, in the summary


@dataclass(frozen=True)
class _Result:
    """The best setting of a contender on a training, beside the best contender.

    Attributes:
        name: The contender.
        score: The mean test score over the seeds of the truth.
        regret: A share on a logarithmic scale, else a difference of costs.
        certain: The difference to the best contender is more than two standard errors.
        worse_by: The regret in words.
        lr: The learning rate of the setting.
        trainings: The number of trainings that searched for it.
    """

    name: str
    score: float
    regret: float
    certain: bool
    worse_by: str
    lr: float
    trainings: int


def results_of(training: Mapping[str, Any]) -> list[_Result]:
    """Return the contenders of a training of the record: the best one, then the others by their regret.

    The best was chosen from other seeds than those that measure it, so the regret of another can be negative.
    """
    entries = training["contenders"]
    best = entries[training["best"]]["best"]
    results = []
    for name, entry in entries.items():
        own = entry["best"]
        error = math.hypot(own["standard_error"], best["standard_error"])
        certain = name != training["best"] and own["cost"] - best["cost"] > CERTAIN * error
        lr = own["settings"].get("lr", RULES[name]().lr if name in RULES else math.nan)
        words = worse_by(training, entry["regret"])
        results.append(_Result(name, own["test"], entry["regret"], certain, words, lr, entry["trainings"]))
    return sorted(results, key=lambda result: (result.name != training["best"], result.regret))


def worse_by(training: Mapping[str, Any], regret: float) -> str:
    r"""Return a regret of the record as a share, as a factor, or in the unit of the score.

    On a logarithmic scale the record holds shares: a loss that is 1.5 times the best one has a regret of 0.5.

    Example:
        >>> worse_by({"scale": "log", "unit": 1.0}, 0.5), worse_by({"scale": "log", "unit": 1.0}, 1.57)
        ('50\xa0%', '×2.57')
        >>> worse_by({"scale": "linear", "unit": 1.0}, -0.023)
        '0.023 better'
    """
    if regret < 0:
        return f"{worse_by(training, -regret)} better"
    if training["scale"] == "log":
        return f"{100 * regret:.2g}{NBSP}%" if regret < 0.995 else f"×{1 + regret:.3g}"
    return f"{round(regret * training['unit'], 4):.2g}"


def score_text(training: Mapping[str, Any], score: float) -> str:
    """Return a score with the digits that its spread over seeds leaves."""
    return f"{score:.2f}" if score >= 10 else f"{score:.3f}"


def contenders_table(record: Mapping[str, Any]) -> str:
    """Return by how much each contender is worse than the best of each training."""
    rows = {name: results_of(training) for name, training in record["trainings"].items()}
    names = sorted(
        {result.name for results in rows.values() for result in results},
        key=lambda name: (median(_rank(results, name) for results in rows.values()), name),
    )
    lines = [f"| training | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for training_name, results in rows.items():
        training = record["trainings"][training_name]
        by_name = {result.name: result for result in results}
        cells = [_cell(training, by_name.get(name)) for name in names]
        lines.append(f"| `{training_name}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _legend(rows)])


def _rank(results: list[_Result], name: str) -> int:
    return next((place for place, result in enumerate(results) if result.name == name), len(results))


def _cell(training: Mapping[str, Any], result: _Result | None) -> str:
    if result is None:
        return "–"
    if result.regret == 0:
        return f"**{score_text(training, result.score)}**"
    return result.worse_by if result.certain else "≈"


def _legend(rows: Mapping[str, list[_Result]]) -> str:
    counts = [result.trainings for results in rows.values() for result in results]
    most = sum(max(results, key=lambda result: result.trainings).regret == 0 for results in rows.values())
    return (
        "Bold: the best contender and its mean test score over 20 fresh seeds; other seeds chose it. Others: by "
        "how much they are worse, as "
        "a share, as a factor (×), or in the unit of the score. ≈: not told apart from the best, the "
        "difference is less than two standard errors (shown in the sentences below). "
        f"The best setting of a contender is that of {min(counts)} to {max(counts)} trainings; in {most} of "
        f"{len(rows)} rows the best contender is the one that was searched most, so small differences may come from "
        "the search."
    )


def summary_table(record: Mapping[str, Any]) -> str:
    """Return how often each contender is the best or near it, over all trainings."""
    by_name: dict[str, list[_Result]] = {}
    for training in record["trainings"].values():
        for result in results_of(training):
            by_name.setdefault(result.name, []).append(result)
    lines = [
        f"| contender | best or not told apart from it | within 5{NBSP}% | within 10{NBSP}% | median | worst |",
        "|---|---|---|---|---|---|",
    ]
    for name, results in sorted(by_name.items(), key=lambda item: median(result.regret for result in item[1])):
        equal = sum(not result.certain for result in results)
        near = [sum(result.regret <= share for result in results) for share in _STEPS]
        worst = max(results, key=lambda result: result.regret)
        middle = 100 * median(result.regret for result in results)
        cells = [f"{count} of {len(results)}" for count in (equal, *near)]
        lines.append(f"| {name} | {' | '.join(cells)} | {middle:.2g}{NBSP}% | {worst.worse_by} |")
    lines += [
        "",
        "Median and worst: by how much worse than the best contender of a training. For scores of which higher is "
        "better, a share of 5 % stands for 0.05 of an accuracy or a return, and for 0.2 dB.",
    ]
    return "\n".join(lines)


def evidence_line(record: Mapping[str, Any], name: str) -> str:
    """Return a training of the record in a sentence: the best contender, its equals, and the others in order."""
    training = record["trainings"][name]
    best, *rest = results_of(training)
    equal = [f"{result.name} ({result.worse_by})" for result in rest if not result.certain]
    worse = [f"{result.name} by {result.worse_by}" for result in rest if result.certain]
    sentences = [
        f"Our record, `{name}` ({training['about']}; {training['steps']} steps): the best of {len(rest) + 1} tuned "
        f"optimizers is {best.name}, {training['metric']} {score_text(training, best.score)}.",
        f"Not told apart from it: {', '.join(equal)}." if equal else "",
        f"Worse: {', '.join(worse)}." if worse else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def learning_rates_table(record: Mapping[str, Any]) -> str:
    """Return the learning rate of the best setting of each contender on each training."""
    trainings = record["trainings"]
    names = list(dict.fromkeys(name for training in trainings.values() for name in training["contenders"]))
    lines = [f"| training | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    rates: dict[str, list[float]] = {name: [] for name in names}
    for training_name, training in trainings.items():
        by_name = {result.name: result.lr for result in results_of(training)}
        for name, lr in by_name.items():
            rates[name].append(lr)
        cells = [f"{by_name[name]:.2g}" if name in by_name else "–" for name in names]
        lines.append(f"| `{training_name}` | {' | '.join(cells)} |")
    lines.append(f"| **median** | {' | '.join(f'**{median(rates[name]):.2g}**' for name in names)} |")
    return "\n".join(lines)


def defaults_table(record: Mapping[str, Any]) -> str:
    """Return what settings without tuning cost on each task: the library default, and the starting point."""
    contenders = record["contenders"]
    lines = [f"| task | {' | '.join(contenders)} |", "|---|" + "---|" * len(contenders)]
    for task in record["tasks"]:
        factors = [entry["factor_by_task"][task] for entry in contenders.values()]
        lines.append(f"| {task} | {' | '.join(_factors(factor) for factor in factors)} |")
    means = [entry["mean_factor"] for entry in contenders.values()]
    lines.append(f"| **geometric mean** | {' | '.join(f'**{_factors(mean)}**' for mean in means)} |")
    lines += [
        "",
        "The validation loss at the library's default, then at the starting point that was chosen without this task, "
        f"each divided by the best of {record['settings']} settings of the same optimizer. The means are over these "
        "trainings and those of a quarter of their passes.",
    ]
    return "\n".join(lines)


def _factors(factor: Mapping[str, float]) -> str:
    return f"{factor['default']:.3g} → {factor['left_out']:.3g}"
