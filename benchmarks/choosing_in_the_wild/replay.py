"""Replays of policies that choose a setting, on worlds made from the bank: their regret after so many trainings.

`python -m benchmarks.choosing_in_the_wild.replay` runs `search_settings`, the function that live comparisons run, and
other policies on the same worlds (`emulator`), with the noise between seeds and without. Nothing is trained: the unit
of cost is a whole training. It prints, for each policy and budget, the regret of the recommended line, false claims,
and the coverage of stated intervals; `--out` keeps them.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks.choosing_in_the_wild.bank import RUNS, Bank
from benchmarks.choosing_in_the_wild.emulator import World
from benchmarks.choosing_in_the_wild.regret_record import percent
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from benchmarks.tables import markdown
from thalweg import statistics
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.adaptive.candidates import Tried
from thalweg.comparison.planning.adaptive.proposals import propose_trials
from thalweg.comparison.planning.search import draw_settings
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.design import Design, InterimAnalysis, SettingDesign
from thalweg.comparison.protocol.procedure import decide
from thalweg.comparison.protocol.score_scale import MARGIN
from thalweg.comparison.protocol.setting_search import conclude, search_settings
from thalweg.comparison.protocol.trial import RECOMMENDED, START, TrialRequest, TrialScore
from thalweg.comparison.training.pruning import HopelessRungs
from thalweg.comparison.training.result import Evaluation
from thalweg.parts import as_plain_json

Settings = dict[str, float]
BUDGETS = (20, 60, 200)
NOISE = ("with", "without")  # noise between the seeds of a setting
ONE_STUDY = tuple(
    Design(draws, best, reseeds, 0, (), 0, 0, (InterimAnalysis(seeds, 0.05),), seeds)
    for draws, best, reseeds, seeds in ((4, 1, 0, 5), (8, 2, 2, 5), (16, 3, 2, 10), (32, 3, 3, 10))
)


@dataclass(frozen=True)
class PolicyResult:
    """The result of one run of a policy.

    Attributes:
        contender: The recommended contender.
        settings: Its settings.
        spent: Whole trainings that were spent.
        interval: The interval that was stated for the mean cost; None if none was.
        claims: Contenders that were claimed to be worse than the recommended one, with the settings they ran at.
        strength: How the race ended.
    """

    contender: str
    settings: Settings
    spent: float
    interval: tuple[float, float] | None = None
    claims: tuple[tuple[str, Settings], ...] = ()
    strength: str = ""


Policy = Callable[[World, int, int], PolicyResult]


class Source:
    """A source of trials on a world, which counts what they cost.

    Args:
        world: The world.
        budget: Whole trainings that it pays for.
        seed: Seed of the run.
        capacity: Trainings that run at once.
        propose: The function that proposes.
        stops: True to stop hopeless trainings of the search.
    """

    def __init__(
        self,
        world: World,
        budget: float,
        seed: int,
        *,
        capacity: int = 2,
        propose: Any = propose_trials,
        stops: bool = False,
    ) -> None:
        self.world, self.left, self.seed, self.capacity = world, float(budget), seed, capacity
        self._propose, self._stops = propose, stops
        self._completed: list[list[Evaluation]] = []
        self.spaces = list(world.spaces.values())
        self.settings: dict[tuple[str, int], Settings] = {}
        self.scores: dict[TrialRequest, TrialScore] = {}
        for space in self.spaces:
            self.settings |= {(space.contender, trial): dict(start) for trial, start in space.starts.items()}

    def propose(self, count: int) -> list[TrialRequest]:
        """Return proposals of the model, and keep their settings."""
        tried = [
            Tried(
                request.contender, request.trial, self.settings[request.contender, request.trial], score.selection_score
            )
            for request, score in self.scores.items()
            if request.stage == "search"
        ]
        proposals = self._propose(self.spaces, tried, count, seed=self.seed)
        for proposal in proposals:
            self.settings[proposal.contender, proposal.trial] = dict(proposal.settings)
        return [
            TrialRequest("search", proposal.contender, 0, proposal.trial, ("search", 0, 0)) for proposal in proposals
        ]

    def run_trials(self, requests: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        """Return the scores of the trainings that the budget pays for."""
        done = {}
        for request in requests:
            if self.left < 1 - 1e-9:
                break
            settings = self.settings[request.contender, request.trial]
            seed = derive(self.seed, f"{request.seed[0]}/{request.seed[1]}", request.seed[2])
            if request.stage == "search" and self._stops and (stopped := self._stopped(request, settings, seed)):
                done[request] = stopped
                continue
            self.left -= 1
            selection, evaluation = (
                self.world.cost(request.contender, settings, seed, split) for split in ("validation", "test")
            )
            worst = self.world.training.cost(math.nan)
            done[request] = TrialScore(selection, evaluation, selection < worst, evaluation >= worst)
        self.scores |= done
        return done

    def _stopped(self, request: TrialRequest, settings: Settings, seed: int) -> TrialScore | None:
        """Return the score of a training that is stopped; None if it goes to its end, and its curve is kept."""
        curve = [
            Evaluation(step, math.nan, cost)
            for step, cost in enumerate(self.world.reports(request.contender, settings, seed), start=1)
        ]
        rungs = HopelessRungs.after("validation", self._completed)
        for evaluation in curve[:-1]:
            if evaluation.step in rungs.earlier_losses and not rungs.survivors(
                evaluation.step, [evaluation.validation]
            ):
                self.left -= evaluation.step / len(curve)
                return TrialScore(evaluation.validation, evaluation.validation, completed=False, stopped=True)
        self._completed.append(curve)
        return None

    def trainings_left(self) -> float:
        """Return the whole trainings that are left."""
        return self.left


def margin_of(world: World) -> Callable[[float], float]:
    """Return the margin on the scale of a world's costs."""
    training = world.training
    if training.scale == "log":
        return lambda leader: math.log1p(MARGIN)
    return lambda leader: MARGIN * abs(leader)


def adaptive(
    propose: Any = propose_trials,
    design: Callable[[float, int], SettingDesign] = SettingDesign.for_trainings,
    *,
    stops: bool = False,
) -> Policy:
    """Return the policy of thalweg with some of its parts replaced."""

    def run(world: World, budget: int, seed: int) -> PolicyResult:
        source = Source(world, budget, seed, propose=propose, stops=stops)
        rules = design(budget, len(world.spaces))
        cost = {name: place for place, name in enumerate(world.spaces)}
        margin = margin_of(world)
        search_settings(rules, source, cost=cost, margin=margin)
        findings = conclude(rules, source.scores, list(world.spaces), cost=cost, margin=margin)
        name = findings.race.recommended or findings.race.remaining[0]
        interval = None
        if len(findings.value_scores) > 1:
            stated = statistics.interval(findings.value_scores)
            interval = (stated.low, stated.high)
        worse = [loser for names in findings.race.dropped for loser in names]
        return PolicyResult(
            name,
            source.settings[name, findings.chosen_settings[name].trial],
            budget - source.left,
            interval,
            tuple((loser, source.settings[loser, findings.chosen_settings[loser].trial]) for loser in worse),
            findings.race.settled,
        )

    return run


def random_search(world: World, budget: int, seed: int) -> PolicyResult:
    """Train random settings of random contenders, each from its own seed; take the best."""
    generator = random.Random(seed)
    best: tuple[float, str, Settings] = (math.inf, "", {})
    for trial in range(budget):
        space = world.spaces[generator.choice(list(world.spaces))]
        settings = space.values_at({name: generator.random() for name in space.ranges})
        cost = world.cost(space.contender, settings, derive(seed, "trial", trial), "validation")
        best = min(best, (cost, space.contender, settings), key=lambda entry: entry[0])
    return PolicyResult(best[1], best[2], budget)


def tpe(world: World, budget: int, seed: int) -> PolicyResult:
    """Use Optuna's TPE over the contender and all of its settings, without a pruner."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        space = world.spaces[trial.suggest_categorical("optimizer", list(world.spaces))]
        positions = {name: trial.suggest_float(f"{space.contender} {name}", 0, 1) for name in space.ranges}
        settings = space.values_at(positions)
        trial.set_user_attr("settings", settings)
        return world.cost(space.contender, settings, derive(seed, "trial", trial.number), "validation")

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed % 2**31))
    study.optimize(objective, n_trials=budget)
    return PolicyResult(study.best_trial.params["optimizer"], study.best_trial.user_attrs["settings"], budget)


def equal_quotas(world: World, budget: int, seed: int) -> PolicyResult:
    """Search every contender alike in one study, then race all of them: the largest such design that is affordable.

    The least one is run if none is; it spends more than the budget then.
    """
    source = Source(world, math.inf, seed, stops=False)
    costs = {name: place for place, name in enumerate(world.spaces)}
    starts = [name for name, space in world.spaces.items() if RECOMMENDED.trial in space.starts]

    def trainings(design: Design) -> int:
        extra = design.race[0].size * (len(costs) + len(starts)) + design.value
        return len(costs) * (design.trainings_per_study + design.race[0].size) + extra

    design = [each for each in ONE_STUDY if trainings(each) <= budget or each is ONE_STUDY[0]][-1]
    for name in costs:
        drawn = draw_settings(parse(name), design.draws, seed=derive(seed, name))
        source.settings |= {(name, trial): world.spaces[name].complete(each) for trial, each in enumerate(drawn)}
    findings = decide(
        design,
        dict.fromkeys(costs, design.draws),
        source.run_trials,
        cost=costs,
        margin=margin_of(world),
        recommended=starts,
    )
    name = findings.race.recommended or findings.race.remaining[0]
    return PolicyResult(name, source.settings[name, findings.chosen_settings[name].trial], trainings(design))


POLICIES: dict[str, Policy] = {
    "thalweg": adaptive(),
    "with stops": adaptive(stops=True),
    "search alone": adaptive(design=lambda budget, names: SettingDesign(0, 0, 0, (), 0)),
    "equal quotas": equal_quotas,
    "tpe": tpe,
    "random": random_search,
}


def judge(world: World, policy: Policy, budget: int, seed: int) -> dict[str, Any]:
    """Run a policy on a world, and return what its recommendation is worth."""
    began = time.perf_counter()
    outcome = policy(world, budget, seed)
    seconds = time.perf_counter() - began
    truth = world.truth(outcome.contender, outcome.settings)
    starts = [
        world.truth(name, space.starts[trial])
        for name, space in world.spaces.items()
        for trial in (START.trial, RECOMMENDED.trial)
        if trial in space.starts
    ]
    regret = world.training.regret
    return {
        "training": world.training.name,
        "world": world.number,
        "budget": budget,
        "regret": regret(truth, world.best),
        "beside_start": regret(truth, min(starts)),
        "covered": None if outcome.interval is None else outcome.interval[0] <= truth <= outcome.interval[1],
        "claims": len(outcome.claims),
        "false_claims": sum(world.truth(*claim) < truth for claim in outcome.claims),
        "strength": outcome.strength,
        "spent": outcome.spent,
        "contender": outcome.contender,
        "seconds": seconds,
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the numbers of a policy at a budget."""
    regrets = [row["regret"] for row in rows]
    covered = [row["covered"] for row in rows if row["covered"] is not None]
    claims = [row for row in rows if row["claims"]]
    return {
        "runs": len(rows),
        "median": median(regrets),
        "p90": float(np.quantile(regrets, 0.9)),
        "mean": fmean(regrets),
        "worse_than_start": fmean(row["beside_start"] > 0.01 for row in rows),
        "coverage": fmean(covered) if covered else math.nan,
        "false": fmean(row["false_claims"] > 0 for row in claims) if claims else math.nan,
        "claiming": len(claims) / len(rows),
        "spent": fmean(row["spent"] for row in rows),
        "seconds": fmean(row["seconds"] for row in rows),
    }


def replay(bank: Bank, arguments: argparse.Namespace, *, noisy: bool) -> Iterator[dict[str, dict[str, float]]]:
    """Yield the summaries of all policies and budgets after each world, so that an interrupted replay has an answer."""
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number in range(arguments.worlds):
        for name in arguments.trainings:
            world = World(bank, TRAININGS[name], number, noisy=noisy)
            if len(world.spaces) < 2:
                print(f"{name}: the bank holds too little of it")
                continue
            for budget in arguments.budgets:
                for policy in arguments.policies:
                    row = judge(world, POLICIES[policy], budget, derive(number, name))
                    rows.setdefault((policy, budget), []).append(row)
        by_budget = sorted(rows.items(), key=lambda entry: (entry[0][1], entry[0][0]))
        yield {f"{policy}, {budget}": summary(judged) for (policy, budget), judged in by_budget}


def as_table(record: Mapping[str, Any]) -> str:
    """Return the table of the documents: regrets in worlds with the noise between seeds, and in the same without it."""
    noisy, quiet = record["with"], record["without"]
    words = ["median", "90th percentile", "worse than the best untuned"]
    head = ["", f"regret, {words[0]}", *words[1:], f"without noise: {words[0]}", *words[1:]]
    rows = []
    for label in noisy:
        keys = ("median", "p90", "worse_than_start")
        rows.append([f"{label} trainings", *(percent(part[label][key]) for part in (noisy, quiet) for key in keys)])
    runs = sorted({numbers["runs"] for part in (noisy, quiet) for numbers in part.values()})
    note = f"{' or '.join(map(str, runs))} worlds each, made from {record['rows']:,} trainings."
    return f"{markdown.table(head, rows)}\n\n{note}"


def main() -> None:
    """Replay policies and print their regrets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=POLICIES)
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--trainings", nargs="+", default=list(TRAININGS), choices=TRAININGS)
    parser.add_argument("--worlds", type=int, default=5, help="of each training")
    parser.add_argument(
        "--noise", nargs="+", default=NOISE, choices=NOISE, help="without noise every seed gives a setting's mean"
    )
    parser.add_argument("--bank", type=Path, default=RUNS / "bank.jsonl")
    parser.add_argument("--out", type=Path, help="a file for the summary")
    arguments = parser.parse_args()
    bank = Bank(arguments.bank, trains=False)
    rows = sum(len(bank.rows(TRAININGS[name])) for name in arguments.trainings)
    record: dict[str, Any] = {"worlds": arguments.worlds, "rows": rows}
    for noise in arguments.noise:
        for summaries in replay(bank, arguments, noisy=noise == "with"):
            for label, numbers in summaries.items():
                print(f"{label}, {noise} noise:", ", ".join(f"{key} {value:.3g}" for key, value in numbers.items()))
            print(flush=True)
            record[noise] = summaries
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(as_plain_json(record), indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
