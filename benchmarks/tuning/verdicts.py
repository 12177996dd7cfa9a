"""Verdicts on the examples, beside what a careful experiment finds.

Two worked examples and three scripts of `examples/` are run as their first lines say, from two seeds. Then every
contender is searched apart: quasi-random settings and its starting points from one seed, the best of them from four
more, the best of those from 20 more, and the winner from 60 seeds that no choice has used. The recommended setting is
trained from these 60 seeds, too. A careful experimenter signs a verdict if its setting is at most 3 % worse than the
best that was found, or not shown to be worse (t test, 5 %), and if no contender that it calls worse is better.

`--examples vae` judges this one alone; the record keeps the others.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import thalweg
from benchmarks.choosing_in_the_wild.regret import covers
from benchmarks.choosing_in_the_wild.training import mean_of, shown_worse
from benchmarks.choosing_in_the_wild.truth import narrowed
from thalweg.bench.records import machine
from thalweg.comparison.contenders.contender import MAX_ORDER, Contender, Settings
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.search import draw_settings
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.tasks.catalogue import load

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "records" / "verdicts.json"
EXAMPLES = ("own_model", "own_training", "vae", "oscillator", "characters")
COMMAND = re.compile(r"thalweg compare (?P<target>\S+) --with (?P<names>\S+) --budget (?P<budget>\S+)")
SEEDS = range(2)  # of the comparisons
SETTINGS = 32  # of each contender
KEPT = 6, 2  # settings that are trained from more seeds
MARGIN = 0.03
_FIRST, _MORE, _CHOICE, _VALUE = (range(start, start + count) for start, count in ((0, 1), (1, 4), (5, 20), (25, 60)))


class Experiment:
    """Trainings of one example, outside of any comparison.

    Args:
        target: The task or training function.
    """

    def __init__(self, target: Any) -> None:
        self._workload = as_workload(target)
        self._values: dict[tuple[str, str, int], float] = {}

    def values(self, contender: Contender, settings: Settings, seeds: Sequence[int], split: str) -> np.ndarray:
        """Return the logarithm of the value on a split from each seed; infinite if the training diverged."""
        schedule = self._workload.training_schedule(contender, "linear")
        row = []
        for number in seeds:
            key = contender.name, json.dumps(settings, sort_keys=True), number
            if (*key, split) not in self._values:
                (result,) = self._workload.train(contender, [Trial(settings, derive(1, "verdicts", number))], schedule)
                for name in ("validation", "test"):
                    value = getattr(result, name) if result.status == "ok" else math.inf
                    value = result.validation if name == "test" and math.isnan(value) else value
                    self._values[(*key, name)] = math.log(value) if 0 < value < math.inf else math.inf
            row.append(self._values[(*key, split)])
        return np.array(row)

    def best(self, contender: Contender) -> Settings:
        """Return the best setting of a contender, by ever more seeds."""
        space = contender.space(MAX_ORDER)
        drawn = draw_settings(contender, SETTINGS, seed=0, space=space)

        def cost(settings: Settings, seeds: Sequence[int]) -> float:
            return float(self.values(contender, settings, seeds, "validation").mean())

        candidates = [*drawn, {**drawn[0], **contender.recommended}]
        return narrowed(candidates, cost, ((_FIRST, KEPT[0]), (_MORE, KEPT[1]), (_CHOICE, 1)))[0]


def command_of(example: str) -> tuple[Any, list[str], str]:
    """Return what an example compares, the contenders and the budget, as its first lines say."""
    text = (ROOT / "examples" / f"{example}.py").read_text()
    command = COMMAND.search(text)
    assert command is not None, f"{example}: no command of thalweg compare"
    return load(str(ROOT / command["target"])), command["names"].split(","), command["budget"]


def signed(recommended: np.ndarray, best: np.ndarray, worse_claims: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Judge a verdict.

    Args:
        recommended: The logarithm of the value of the recommended setting from each of the seeds.
        best: The same of the best setting that was found.
        worse_claims: The same of the best setting of each contender that the verdict calls worse.

    Returns:
        The regret, whether it is shown to exceed the margin, the false claims, and whether the verdict is signed.
    """
    shown = shown_worse(recommended, best, math.log1p(MARGIN))
    false = [name for name, values in worse_claims.items() if values.mean() < recommended.mean()]
    regret = math.expm1(float((recommended - best).mean()))
    return {"regret": regret, "shown_worse": shown, "false_claims": false, "signed": not (shown or false)}


def coverage(low: float | None, high: float | None, values: np.ndarray) -> dict[str, bool | None]:
    """Return whether an interval covers the mean of values, and whether it does with the error of that mean.

    Args:
        low: The lower end of the interval, above 0; None if there is none.
        high: The upper end.
        values: The logarithms of the values.
    """
    if low is None or high is None:
        return {"covered": None, "covered_with_error": None}
    mean = mean_of(values.tolist())
    covered, with_error = covers(math.log(low), math.log(high), mean.cost, mean.error)
    return {"covered": covered, "covered_with_error": with_error}


def judge(example: str) -> dict[str, Any]:
    """Run the comparisons of an example, and the experiment."""
    target, names, budget = command_of(example)
    comparisons = []
    for seed in SEEDS:
        comparison = thalweg.compare(target, names, budget=budget, seed=seed)
        comparisons.append(comparison.to_json())
        print(f"{example}: {comparison.verdict.headline}", file=sys.stderr, flush=True)
    experiment = Experiment(target)
    best: dict[str, Settings] = {}
    for name in names:
        best[name] = experiment.best(parse(name))
        print(f"{example}: {name} searched", file=sys.stderr, flush=True)
    values = {name: experiment.values(parse(name), best[name], _VALUE, "test") for name in names}
    chosen = {name: experiment.values(parse(name), best[name], _CHOICE, "test").mean() for name in names}
    winner = min(chosen, key=lambda name: chosen[name])
    verdicts = []
    for seed, answer in zip(SEEDS, comparisons, strict=True):
        verdict = answer["verdict"]
        name = verdict["recommended"] or answer["contenders"][0]["name"]
        row = next(row for row in answer["contenders"] if row["name"] == name)
        settings = {key: row["settings"][key] for key in row["searched"]}
        own = experiment.values(parse(name), settings, _VALUE, "test")
        claimed = {loser: values[loser] for loser in names if loser not in (name, *verdict["tied"])}
        facts = {"headline": verdict["headline"], "text": verdict["text"], "recommended": name, "settings": settings}
        facts |= {"seed": seed, "trainings": answer["trainings"]}
        facts |= {"value": row["value"], "low": row["low"], "high": row["high"], "true_value": math.exp(own.mean())}
        verdicts.append(facts | coverage(row["low"], row["high"], own) | signed(own, values[winner], claimed))
    searched = {name: {"settings": best[name], "true_value": math.exp(values[name].mean())} for name in names}
    facts = {"budget": budget, "seeds": len(_VALUE), "contenders": searched, "best": winner}
    return facts | {"verdicts": verdicts}


def main() -> None:
    """Judge the examples, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", nargs="+", default=list(EXAMPLES), choices=EXAMPLES, metavar="EXAMPLE")
    parser.add_argument("--out", type=Path, default=RECORD)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for example in arguments.examples:
        judged = judge(example) | {"machine": machine()}
        earlier = json.loads(arguments.out.read_text())["examples"] if arguments.out.exists() else {}
        both = earlier | {example: judged}
        record = {"settings": SETTINGS, "examples": {name: both[name] for name in EXAMPLES if name in both}}
        arguments.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        for verdict in judged["verdicts"]:
            print(f"{example}: {verdict['headline']} regret {verdict['regret']:.3f}, signed: {verdict['signed']}")


if __name__ == "__main__":
    main()
