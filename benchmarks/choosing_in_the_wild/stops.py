"""Early stops, replayed on the curves of the bank: the cost that rules save against the regret that they cause.

`python -m benchmarks.choosing_in_the_wild.stops` draws random trainings of a bank in random order, of all contenders.
Each is stopped as the rule says, given those before it. The regret is the difference of the best cost among trainings
that were not stopped to the best of all, from the same seed. The rule of the product is `HopelessRungs`; rules with
other numbers, and the usual ones, are replayed beside it.
"""

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.choosing_in_the_wild.bank import RUNS, Bank
from benchmarks.choosing_in_the_wild.emulator import rows_of
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from thalweg.comparison.training.pruning import HopelessRungs
from thalweg.comparison.training.result import Evaluation

Curve = Sequence[float]
Rule = Callable[[int, Curve, Sequence[Curve]], bool]  # index of the report, curve, completed curves of that length
COUNTS = (20, 60, 150)
REPEATS = 40  # of each training


def product(index: int, curve: Curve, completed: Sequence[Curve]) -> bool:
    """Stop as the product does."""
    done = [[Evaluation(step, math.nan, cost) for step, cost in enumerate(past, start=1)] for past in completed]
    rungs = HopelessRungs.after("validation", done)
    return index + 1 in rungs.earlier_losses and not rungs.survivors(index + 1, [curve[index]])


def quantile(share: float, from_share: float) -> Rule:
    """Return the rule that stops what is worse than this share of the completed trainings at the same report."""

    def rule(index: int, curve: Curve, completed: Sequence[Curve]) -> bool:
        if (index + 1) / len(curve) < from_share or len(completed) < 4:
            return False
        values = sorted(past[index] for past in completed)
        return curve[index] > values[min(len(values) - 1, int(share * len(values)))]

    return rule


def reach(models: int, factor: float) -> Rule:
    """Return the rule that stops what cannot reach the best ends, even with the greatest gain that was seen."""

    def rule(index: int, curve: Curve, completed: Sequence[Curve]) -> bool:
        if (index + 1) / len(curve) < 0.15 or len(completed) < 4:
            return False
        best = sorted(completed, key=lambda past: past[-1])[:models]
        gain = max(0.0, max(past[index] - past[-1] for past in completed))
        return curve[index] - factor * gain > best[-1][-1]

    return rule


def models(least: int, share: float, from_share: float, slack: float) -> Rule:
    """Return the rule of the product with other numbers."""

    def rule(index: int, curve: Curve, completed: Sequence[Curve]) -> bool:
        count = max(least, math.ceil(share * len(completed)))
        if (index + 1) / len(curve) < from_share or len(completed) <= count:
            return False
        values = [past[index] for past in sorted(completed, key=lambda past: past[-1])[:count]]
        return curve[index] > max(values) + slack * (max(values) - min(values))

    return rule


RULES: dict[str, Rule] = {
    "product": product,
    "median from 33 %": quantile(0.5, 0.33),
    "median from 50 %": quantile(0.5, 0.5),
    "best third from 33 %": quantile(0.33, 0.33),
    "worst quarter from 15 %": quantile(0.75, 0.15),
    "out of reach of the best 3": reach(3, 1.0),
    "out of reach of the best 5": reach(5, 1.0),
    "out of reach of the best": reach(1, 1.0),
    "4 models, half a spread": models(4, 0.2, 0.15, 0.5),
    "5 models, half a spread": models(5, 0.2, 0.15, 0.5),
    "5 models, a spread": models(5, 0.2, 0.15, 1.0),
    "5 models, from 30 %": models(5, 0.2, 0.3, 0.25),
}


def replay(curves: Sequence[Curve], rule: Rule) -> tuple[float, float]:
    """Return the share of the cost of whole trainings, and the regret."""
    completed: list[Curve] = []
    spent = 0.0
    for curve in curves:
        comparable = [past for past in completed if len(past) == len(curve)]
        ended = next((index for index in range(len(curve) - 1) if rule(index, curve, comparable)), None)
        if ended is None:
            completed.append(curve)
        spent += 1 if ended is None else (ended + 1) / len(curve)
    return spent / len(curves), min(curve[-1] for curve in completed) - min(curve[-1] for curve in curves)


def main() -> None:
    """Replay all rules and print what they save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bank", type=Path, default=RUNS / "bank.jsonl")
    parser.add_argument("--out", type=Path, help="a file for the numbers")
    arguments = parser.parse_args()
    bank = Bank(arguments.bank, trains=False)
    held = {
        name: [curve for contender in training.contenders for _, _, curve in rows_of(bank, training, contender)]
        for name, training in TRAININGS.items()
    }
    record: dict[str, Any] = {}
    for count in COUNTS:
        for label, rule in RULES.items():
            generator = random.Random(1)
            results = [
                replay(generator.sample(curves, min(count, len(curves))), rule)
                for curves in held.values()
                if len(curves) >= COUNTS[0]
                for _ in range(REPEATS)
            ]
            numbers = {
                "cost": fmean(cost for cost, _ in results),
                "regret": fmean(regret for _, regret in results),
                "regret above 1 %": fmean(regret > 0.01 for _, regret in results),
            }
            record[f"{label}, {count}"] = {key: round(value, 4) for key, value in numbers.items()}
            print(f"{count} trainings, {label}:", ", ".join(f"{k} {v:.4f}" for k, v in numbers.items()), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
