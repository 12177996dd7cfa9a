"""Truth: the best setting of each contender on each training, found by exhaustive search in its declared space.

The search goes in levels, each larger than the one before, and takes over what the earlier ones have trained:

1. A Sobol sequence in the space of the learning rate and the first momentum, another in the space of all settings, and
   the contender's starting points. One training each.
2. From level 2 on: settings near the best ones, drawn from normal distributions around them. One training each.
3. The best settings by validation, from more seeds.
4. The best of these, from the seeds of the truth, which no search has used. Validation chooses one; its mean test score
   is the truth.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.choosing_in_the_wild.bank import RETRAINING_SEEDS, SEARCH_SEED, TRUTH_SEEDS, Bank, canonical
from benchmarks.choosing_in_the_wild.training import Training, mean_of
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.search import draw_settings, rounded

MAX_ORDER = 3
DEVIATION = 0.08  # of settings near the best ones, in shares of a range
CENTERS = 4
# Each training soon has a truth of the contenders that people use most.
ORDER = ("adam", "momentum", "adamw", "rmsprop", "sgd", "lion", "nadam", "adagrad", "muon+adamw")


@dataclass(frozen=True)
class Level:
    """The size of a search.

    Attributes:
        sobol: Points in the space of the learning rate and the first momentum, and as many in that of all settings.
        near: Settings near the best ones.
        retrained: Settings that are trained from more seeds.
        seeds: The number of these seeds.
        finalists: Settings that are trained from the seeds of the truth.
        starts: True to train the starting points from the seeds of the truth, too.
    """

    sobol: int
    near: int
    retrained: int
    seeds: int
    finalists: int
    starts: bool = True


LEVELS = (
    Level(sobol=8, near=0, retrained=3, seeds=1, finalists=1, starts=False),
    Level(sobol=24, near=0, retrained=6, seeds=2, finalists=2, starts=False),
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
    finalists = ranked_by(bank, training, contender, retrained[: level.finalists], TRUTH_SEEDS)
    for start in starts if level.starts else ():
        bank.true_value(training, contender, start)
    return finalists


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
            (bank.true_value(training, contender, settings).cost for settings in bank.evaluated(training, contender)),
            default=math.inf,
        )
        for contender in training.contenders
    }
    return sorted(best, key=lambda contender: best[contender])[:count]


def search_all(
    path: Path, entrants: Mapping[str, Sequence[str]], levels: Sequence[int], workers: int
) -> Iterator[tuple[Any, ...]]:
    """Search with worker processes, and yield each training, contender and level when it is done."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_search_unit, path, *unit) for unit in units(entrants, levels)]
        for future in futures:
            yield future.result()
