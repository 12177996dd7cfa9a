"""Methods that choose: each gets a training, contenders and a budget, and recommends a setting.

A new method is a function with the decorator ``method``.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna

import thalweg
from benchmarks.choosing_in_the_wild.training import Training, run
from benchmarks.choosing_in_the_wild.truth import MAX_ORDER
from benchmarks.tuning.optuna_space import suggest
from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.search import rounded
from thalweg.errors import BudgetError
from thalweg.tasks import TrainingFunction

SEEDS_OF_A_REPEAT = 100_000  # trainings of different repeats start from different seeds


@dataclass(frozen=True)
class Request:
    """A request for a recommendation.

    Attributes:
        training: The training.
        contenders: The names of the contenders.
        seconds: The wall time.
        seed: The seed of the method, a different one for each repeat.
        trainings: The number of trainings that a method may use, too; None for no limit.
    """

    training: Training
    contenders: tuple[str, ...]
    seconds: float
    seed: int
    trainings: int | None = None

    def training_seed(self, number: int) -> int:
        """Return the seed of a training, counted from 0."""
        return SEEDS_OF_A_REPEAT * (self.seed + 1) + number


@dataclass(frozen=True)
class Recommendation:
    """A recommended setting.

    Attributes:
        contender: The name of the contender; None if the method refused.
        settings: Its settings; those left out are the contender's own.
        trainings: The number of trainings that were used; None if it is unknown.
        interval: The interval that the method states for the mean test score; None if it states none.
        note: A remark of the method, e.g. the reason of a refusal.
    """

    contender: str | None
    settings: Settings
    trainings: int | None = None
    interval: tuple[float, float] | None = None
    note: str = ""


Method = Callable[[Request], Recommendation]
METHODS: dict[str, Method] = {}


def method(name: str) -> Callable[[Method], Method]:
    """Register a method under a name of the command line."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register


@method("thalweg")
def thalweg_compare(request: Request) -> Recommendation:
    """Use ``thalweg.compare`` with the time as its budget; if it recommends nothing, take its first row."""
    training = request.training
    function = TrainingFunction(train=training.train, name=training.name, maximize=training.maximize)
    try:
        comparison = thalweg.compare(
            function, list(request.contenders), budget=f"{request.seconds:.3f}s", seed=request.seed
        )
    except BudgetError as error:
        return Recommendation(None, {}, note=f"refused: {error}")
    name = comparison.verdict.recommended or comparison.contenders[0].name
    summary = next(summary for summary in comparison.contenders if summary.name == name)
    interval = (summary.value.low, summary.value.high) if summary.value.has_interval else None
    trainings = comparison.to_json()["trainings"]
    return Recommendation(name, summary.settings, trainings, interval, comparison.verdict.headline)


def _optuna(request: Request, pruner: optuna.pruners.BasePruner | None) -> Recommendation:
    """Use Optuna's TPE over the optimizer and all of its settings."""
    training = request.training

    def objective(trial: optuna.Trial) -> float:
        contender = trial.suggest_categorical("optimizer", request.contenders)
        space = parse(contender).space(MAX_ORDER)
        settings = {name: suggest(trial, f"{contender} {name}", bounds) for name, bounds in space.items()}
        trial.set_user_attr("settings", settings)

        def watch(count: int, value: float) -> None:
            trial.report(training.cost(value), count)
            if trial.should_prune():
                raise optuna.TrialPruned

        result = run(training, contender, settings, request.training_seed(trial.number), watch=watch)
        return training.cost(result.validation)

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=request.seed), pruner=pruner)
        study.optimize(objective, n_trials=request.trainings, timeout=request.seconds)
    finally:
        optuna.logging.set_verbosity(verbosity)
    best = study.best_trial
    return Recommendation(best.params["optimizer"], best.user_attrs["settings"], len(study.trials))


@method("optuna-pruned")
def optuna_pruned(request: Request) -> Recommendation:
    """Use Optuna's TPE with its default pruner."""
    return _optuna(request, pruner=None)


@method("optuna")
def optuna_unpruned(request: Request) -> Recommendation:
    """Use Optuna's TPE without a pruner."""
    return _optuna(request, pruner=optuna.pruners.NopPruner())


@method("random")
def random_search(request: Request) -> Recommendation:
    """Train random settings of random contenders, and take the best by validation."""
    generator = random.Random(request.seed)
    ends = time.perf_counter() + request.seconds
    best: tuple[float, str, Settings] = (math.inf, request.contenders[0], {})
    count = 0
    while count == 0 or (time.perf_counter() < ends and count != request.trainings):
        contender = generator.choice(request.contenders)
        space = parse(contender).space(MAX_ORDER)
        settings = {name: rounded(bounds, generator.random()) for name, bounds in space.items()}
        result = run(request.training, contender, settings, request.training_seed(count))
        best = min(best, (request.training.cost(result.validation), contender, settings), key=lambda entry: entry[0])
        count += 1
    return Recommendation(best[1], best[2], count)
