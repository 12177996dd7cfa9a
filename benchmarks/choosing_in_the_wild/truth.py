"""Truth: the best setting of each contender on each training, found by exhaustive search in its declared space.

The search goes in levels, each larger than the one before, and takes over what the earlier ones have trained:

1. A Sobol sequence in the space of the learning rate and the first momentum, another in the space of all settings, and
   the contender's starting points. One training each.
2. From level 2 on: settings near the best ones, drawn from normal distributions around them. One training each.
3. The best settings by validation, from more seeds.
4. The best of these, from the seeds of the truth, which no search has used. Validation chooses one.
5. The chosen one, from 20 more seeds, which no choice has used. Its mean test score there is the truth: the best of
   many means is lucky, and would make the truth too good.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.choosing_in_the_wild.bank import (
    RETRAINING_SEEDS,
    SEARCH_SEED,
    TRUTH_SEEDS,
    Bank,
    MissingTrainingError,
    canonical,
)
from benchmarks.choosing_in_the_wild.training import Training, mean_of
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.search import draw_settings, rounded

MAX_ORDER = 3
DEVIATION = 0.08  # of settings near the best ones, in shares of a range
CENTERS = 4
UNTUNED = 6, 3  # starting points of all contenders that are trained from more seeds, and from those of the truth
# Each training soon has a truth of the contenders that people use most.
ORDER = ("adam", "momentum", "adamw", "rmsprop", "sgd", "lion", "nadam", "adagrad", "muon+adamw")

Candidate = TypeVar("Candidate")


@dataclass(frozen=True)
class Level:
    """The size of a search.

    Attributes:
        sobol: Points in the space of the learning rate and the first momentum, and as many in that of all settings.
        near: Settings near the best ones.
        retrained: Settings that are trained from more seeds.
        seeds: The number of these seeds.
        finalists: Settings that are trained from the seeds of the truth.
    """

    sobol: int
    near: int
    retrained: int
    seeds: int
    finalists: int


LEVELS = (
    Level(sobol=8, near=0, retrained=3, seeds=1, finalists=1),
    Level(sobol=24, near=0, retrained=6, seeds=2, finalists=2),
    Level(sobol=48, near=24, retrained=12, seeds=3, finalists=3),
    Level(sobol=96, near=48, retrained=16, seeds=4, finalists=4),
    Level(sobol=192, near=96, retrained=24, seeds=4, finalists=6),
)


def starting_points(contender: str) -> list[Settings]:
    """Return the settings that a contender starts from without any search: the defaults, and recommended ones."""
    recommended = dict(parse(contender).recommended)
    return [{}, recommended] if recommended else [{}]


def sobol_settings(contender: str, count: int) -> list[Settings]:
    """Return quasi-random settings: ``count`` where only the first settings vary, and ``count`` where all do.

    More settings begin with fewer ones.
    """
    entrant = parse(contender)
    drawn: list[Settings] = []
    for order in (2, MAX_ORDER):
        space = entrant.space(order)
        drawn += draw_settings(entrant, count, seed=order, with_start=False, space=space)
    return drawn


def settings_near(contender: str, centers: Sequence[Settings], count: int) -> list[Settings]:
    """Return settings around the centers in turn; those that a center leaves at its default stay there."""
    entrant = parse(contender)
    space = entrant.space(MAX_ORDER)
    generator = random.Random(0)
    drawn: list[Settings] = []
    for k in range(count):
        center = centers[k % len(centers)]
        moved = {
            name: rounded(space[name], min(max(space[name].position(value) + generator.gauss(0, DEVIATION), 0), 1))
            for name, value in center.items()
            if name in space
        }
        drawn.append(canonical(contender, moved))
    return drawn


def ranked_by(
    bank: Bank, training: Training, contender: str, candidates: Sequence[Settings], seeds: Sequence[int]
) -> list[Settings]:
    """Return candidates by their mean validation cost over the seeds, the best first, each once."""
    unique = {str(canonical(contender, candidate)): canonical(contender, candidate) for candidate in candidates}
    means = {
        key: mean_of(bank.costs(training, contender, candidate, seeds, "validation")).cost
        for key, candidate in unique.items()
    }
    return [unique[key] for key in sorted(unique, key=lambda key: means[key])]


def search(bank: Bank, training: Training, contender: str, level: Level) -> list[Settings]:
    """Search the space of a contender. Trainings that the bank holds are not repeated.

    Returns:
        The finalists, the best by validation over the seeds of the truth first.
    """
    starts = starting_points(contender)
    drawn = [*starts, *sobol_settings(contender, level.sobol)]
    ranked = ranked_by(bank, training, contender, drawn, [SEARCH_SEED])
    if level.near:
        near = settings_near(contender, ranked[:CENTERS], level.near)
        ranked = ranked_by(bank, training, contender, [*drawn, *near], [SEARCH_SEED])
    # The search's own seed is left out: its best settings were lucky there.
    retrained = ranked_by(bank, training, contender, ranked[: level.retrained], RETRAINING_SEEDS[: level.seeds])
    return ranked_by(bank, training, contender, retrained[: level.finalists], TRUTH_SEEDS)


def finished_search(bank: Bank, training: Training, contender: str) -> tuple[int, Settings] | None:
    """Return the largest level of search that is complete in a bank that does not train, and the best setting.

    The best is chosen by validation over the seeds of the truth, among all settings that were trained from them: also
    those of earlier searches.

    Returns:
        The level, counted from 1, and the setting; None if no level is complete.
    """
    for level in range(len(LEVELS), 0, -1):
        try:
            finalists = search(bank, training, contender, LEVELS[level - 1])
        except MissingTrainingError:
            continue
        candidates = [*finalists, *bank.evaluated(training, contender)]
        return level, ranked_by(bank, training, contender, candidates, TRUTH_SEEDS)[0]
    return None


def narrowed(
    candidates: Sequence[Candidate],
    cost: Callable[[Candidate, Sequence[int]], float],
    stages: Iterable[tuple[Sequence[int], int]],
) -> Sequence[Candidate]:
    """Return the best candidates by ever more seeds, the best first.

    Args:
        candidates: The candidates.
        cost: Returns the mean cost of a candidate over seeds.
        stages: The seeds of each stage, and the number of candidates that it keeps.
    """
    for seeds, count in stages:
        costs = [cost(candidate, seeds) for candidate in candidates]
        candidates = [candidates[place] for place in sorted(range(len(costs)), key=costs.__getitem__)[:count]]
    return candidates


def best_untuned(bank: Bank, training: Training) -> tuple[str, Settings]:
    """Return the best of all contenders' starting points, as `search` chooses settings: by ever more seeds.

    Returns:
        The contender and its starting point.

    Raises:
        MissingTrainingError: If the bank lacks a training, and does not train.
    """

    def cost(candidate: tuple[str, Settings], seeds: Sequence[int]) -> float:
        return mean_of(bank.costs(training, *candidate, seeds, "validation")).cost

    starts = [(contender, start) for contender in training.contenders for start in starting_points(contender)]
    return narrowed(starts, cost, (([SEARCH_SEED], UNTUNED[0]), (RETRAINING_SEEDS, UNTUNED[1]), (TRUTH_SEEDS, 1)))[0]


def measure(bank: Bank, training: Training) -> None:
    """Train what was chosen, the best setting of each contender and the best untuned one, from seeds of no choice."""
    untuned = best_untuned(bank, training)  # first: what it trains may be the best setting of a contender
    searched = [(contender, finished_search(bank.frozen(), training, contender)) for contender in training.contenders]
    chosen = [(contender, finished[1]) for contender, finished in searched if finished is not None]
    for contender, settings in (*chosen, untuned):
        bank.true_value(training, contender, settings)


def _measure_unit(path: Path, name: str) -> tuple[str]:
    """Measure in a worker process, which has one thread."""
    torch.set_num_threads(1)
    measure(Bank(path), TRAININGS[name])
    return (name,)


def _search_unit(path: Path, name: str, contender: str, level: int) -> tuple[str, str, int]:
    """Search in a worker process, which has one thread."""
    torch.set_num_threads(1)
    search(Bank(path), TRAININGS[name], contender, LEVELS[level])
    return name, contender, level + 1


def units(entrants: Mapping[str, Sequence[str]], levels: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    """Yield training, contender and level; each training gets a first truth before any gets a better one.

    Args:
        entrants: The contenders to search, by training.
        levels: The indices of the levels.
    """
    for level in levels:
        for contender in ORDER:
            for name in entrants:
                if contender in entrants[name]:
                    yield name, contender, level


def leaders(bank: Bank, training: Training, count: int) -> list[str]:
    """Return the contenders with the lowest mean cost of a setting that was trained from all seeds of the truth."""
    best = {
        contender: min(
            (
                mean_of(bank.costs(training, contender, settings, TRUTH_SEEDS, "test")).cost
                for settings in bank.evaluated(training, contender)
            ),
            default=math.inf,
        )
        for contender in training.contenders
    }
    return sorted(best, key=lambda contender: best[contender])[:count]


def search_all(
    path: Path, entrants: Mapping[str, Sequence[str]], levels: Sequence[int], workers: int
) -> Iterator[tuple[Any, ...]]:
    """Search with worker processes, then measure what was chosen.

    Yields:
        Each training, contender and level when it is searched, and each training when its values are measured.
    """
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        searches = [pool.submit(_search_unit, path, *unit) for unit in units(entrants, levels)]
        for search_done in searches:
            yield search_done.result()
        for measured in [pool.submit(_measure_unit, path, name) for name in entrants]:
            yield measured.result()
