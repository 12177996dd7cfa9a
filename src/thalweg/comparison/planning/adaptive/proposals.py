"""Proposals: the settings that a search over all contenders tries next.

The starting points come first. Then a surrogate model of all contenders (`surrogate`) selects among candidates: rows
of learning rates, random settings, and steps from the best settings so far. A candidate is worth the improvement that
is expected of it. So trainings go to the contenders and to the ranges where the best setting may still be, and how many
a contender gets is never fixed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.planning.adaptive.search_space import MAX_EXTENSIONS, SearchSpace
from thalweg.comparison.planning.adaptive.surrogate import Points, Surrogate
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.trial import RECOMMENDED, START

OPENED_AFTER = {1: 0, 2: 2, 3: 8}  # trainings of a contender after which settings of an order vary
EDGE = 0.06  # of a range: a best learning rate so near to its end extends it
LOCAL_CENTERS = 4  # best settings from which steps are tried
LOCAL_STEPS = 24  # from each
STEP_SIZES = (0.02, 0.06, 0.15)  # standard deviations of steps, in shares of a range
RANDOM, RATES = 16, 16  # candidates of each contender
MAX_POINTS = 256  # that the model sees; of more, the best


class Tried(NamedTuple):
    """A training of the search.

    Attributes:
        contender: The name of the contender.
        trial: The number of the trial.
        settings: The searched settings that differ from the contender's defaults, or all of them.
        score: Its selection score, lower is better; of a stopped training the score of its last report. None if it
            runs now.
    """

    contender: str
    trial: int
    settings: Mapping[str, float]
    score: float | None


class Proposal(NamedTuple):
    """A setting to train.

    Attributes:
        contender: The name of the contender.
        trial: `START.trial` or `RECOMMENDED.trial` for its defaults and its recommended settings, else the number of
            the proposal among those of all contenders.
        settings: All searched settings.
    """

    contender: str
    trial: int
    settings: Settings


@dataclass(frozen=True)
class _Candidate:
    space: SearchSpace
    settings: Settings
    trial: int | None = None  # of a starting point


def propose_trials(spaces: Sequence[SearchSpace], tried: Sequence[Tried], count: int, *, seed: int) -> list[Proposal]:
    """Propose trainings.

    Args:
        spaces: The search space of each contender, in the user's order.
        tried: All trainings of the search so far, in any order.
        count: The number of trainings to propose.
        seed: Seed of the comparison. The same arguments give the same proposals.

    Returns:
        At most ``count`` proposals; fewer if nothing is left to try.
    """
    number = 1 + max((trial.trial for trial in tried), default=-1)
    number = max(number, 0)
    picked = _starting_points(spaces, tried)[:count]
    known = {(trial.contender, trial.trial) for trial in tried}
    if len(picked) < count and len(tried) + len(picked) > 0:
        picked += _modelled(spaces, tried, picked, count - len(picked), derive(seed, "proposals", len(tried)))
    proposals = []
    for candidate in picked:
        trial = candidate.trial
        if trial is None or (candidate.space.contender, trial) in known:
            trial, number = number, number + 1
        proposals.append(Proposal(candidate.space.contender, trial, candidate.settings))
    return proposals


def _starting_points(spaces: Sequence[SearchSpace], tried: Sequence[Tried]) -> list[_Candidate]:
    """The starting points that were not tried, those that were measured on many tasks first."""
    tried_names = {trial.contender for trial in tried}
    new = [space for space in spaces if space.contender not in tried_names]
    return [
        _Candidate(space, dict(space.anchor), _start_number(space))
        for space in sorted(new, key=lambda space: RECOMMENDED.trial not in space.starts)
    ]


def _start_number(space: SearchSpace) -> int | None:
    """The trial of a starting point that is the anchor; None if it is another setting."""
    for trial in (RECOMMENDED.trial, START.trial):
        if trial in space.starts and space.starts[trial] == space.anchor:
            return trial
    return None


def widened(spaces: Sequence[SearchSpace], tried: Sequence[Tried]) -> list[SearchSpace]:
    """Return the spaces, with the learning rate's range extended wherever the best one so far lies at its end."""
    return [_widened(space, [trial for trial in tried if trial.contender == space.contender]) for space in spaces]


def _widened(space: SearchSpace, tried: Sequence[Tried]) -> SearchSpace:
    scored = [(trial.score, trial.trial, space.complete(trial.settings)) for trial in tried if trial.score is not None]
    if not (space.can_extend and scored):
        return space
    rate = min(scored, key=lambda entry: entry[:2])[2]["lr"]
    below = above = 0
    while below < MAX_EXTENSIONS and space.extended(below, 0).ranges["lr"].position(rate) < EDGE:
        below += 1
    while above < MAX_EXTENSIONS and space.extended(0, above).ranges["lr"].position(rate) > 1 - EDGE:
        above += 1
    return space.extended(below, above)


def _modelled(
    spaces: Sequence[SearchSpace], tried: Sequence[Tried], picked: Sequence[_Candidate], count: int, seed: int
) -> list[_Candidate]:
    """The candidates of which the model expects the greatest improvement, each given those before it."""
    spaces = widened(spaces, tried)
    by_name = {space.contender: space for space in spaces}
    scored = sorted(
        ((trial.score, trial.trial, trial.contender, trial) for trial in tried if trial.score is not None),
        key=lambda entry: entry[:3],
    )[:MAX_POINTS]
    best = [trial for _, _, _, trial in scored]
    if not best:
        return []
    frame = _Frame(spaces)
    points = frame.points([(trial.contender, by_name[trial.contender].complete(trial.settings)) for trial in best])
    scores = compressed([score for score, _, _, _ in scored])
    candidates = _candidates(spaces, tried, best, np.random.default_rng(seed))
    running = [
        _Candidate(by_name[trial.contender], by_name[trial.contender].complete(trial.settings))
        for trial in tried
        if trial.score is None
    ]
    waiting = [*running, *picked]
    pool = frame.points([(place.space.contender, place.settings) for place in [*candidates, *waiting]])
    mean, covariance = Surrogate(points, scores, frame.orders).predict(pool)
    chosen = _greatest(mean, covariance, len(candidates), float(min(scores)), count)
    return [candidates[k] for k in chosen]


def _greatest(mean: np.ndarray, covariance: np.ndarray, num_candidates: int, best: float, count: int) -> list[int]:
    """Choose by expected improvement. A point that is chosen, or waits, counts as trained with its expected score."""
    for waiting in range(num_candidates, len(mean)):
        covariance = _given(covariance, waiting)
    chosen: list[int] = []
    for _ in range(min(count, num_candidates)):
        deviation = np.sqrt(np.maximum(np.diag(covariance)[:num_candidates], 1e-12))
        gain = (best - mean[:num_candidates]) / deviation
        improvement = deviation * (gain * ndtr(gain) + np.exp(-(gain**2) / 2) / math.sqrt(2 * math.pi))
        improvement[chosen] = -1.0
        chosen.append(int(improvement.argmax()))
        covariance = _given(covariance, chosen[-1])
    return chosen


def _given(covariance: np.ndarray, point: int) -> np.ndarray:
    """The covariance once the score of a point is known."""
    column = covariance[:, point]
    return np.asarray(covariance - np.outer(column, column) / max(float(column[point]), 1e-12))


def compressed(scores: Sequence[float]) -> list[float]:
    """Return scores with the bad ones drawn together: a cliff says nothing about a valley.

    Differences count in full up to the median distance from the best score, and by their logarithm beyond.
    """
    values = np.asarray(scores, dtype=float)
    best = float(values.min())
    unit = float(np.median(values - best))
    if unit <= 0:
        return [float(value) for value in values]
    excess = (values - best) / unit
    return [float(best + unit * (x if x <= 1 else 1 + math.log(x))) for x in excess]


class _Frame:
    """The columns in which the settings of all contenders are compared; settings of one name share a column."""

    def __init__(self, spaces: Sequence[SearchSpace]) -> None:
        self._spaces = {space.contender: (number, space) for number, space in enumerate(spaces)}
        orders: dict[str, int] = {}
        for space in spaces:
            orders |= {_column(name, order): order for name, order in space.orders.items()}
        self._columns = {column: place for place, column in enumerate(orders)}
        self.orders = list(orders.values())

    def points(self, settings: Sequence[tuple[str, Settings]]) -> Points:
        """Return the points of settings, each with its contender."""
        places = np.zeros((len(settings), len(self._columns)))
        numbers = np.zeros(len(settings), dtype=int)
        for row, (name, values) in enumerate(settings):
            numbers[row], space = self._spaces[name]
            for setting, place in space.coordinates(values).items():
                places[row, self._columns[_column(setting, space.orders[setting])]] = place
        return Points(places, numbers)


def _column(setting: str, order: int) -> str:
    """The first momentum is one column, by whatever name; the learning rate is another."""
    return {1: "lr", 2: "first momentum"}.get(order, setting) if setting != "lr" else "lr"


def _candidates(
    spaces: Sequence[SearchSpace], tried: Sequence[Tried], best: Sequence[Tried], generator: np.random.Generator
) -> list[_Candidate]:
    """Settings that were not tried: starting points, rows of learning rates, random ones, and steps from the best."""
    counts = {space.contender: sum(trial.contender == space.contender for trial in tried) for space in spaces}
    by_name = {space.contender: space for space in spaces}
    candidates: list[_Candidate] = []
    for space in spaces:
        order = _opened(counts[space.contender])
        candidates += [_Candidate(space, dict(start), trial) for trial, start in space.starts.items()]
        own = next((trial for trial in best if trial.contender == space.contender), None)
        center = space.anchor if own is None else space.complete(own.settings)
        candidates += _rates(space, center, generator) + _random(space, order, generator)
    for number, trial in enumerate(best[:LOCAL_CENTERS]):
        space = by_name[trial.contender]
        order = _opened(counts[space.contender])
        candidates += _steps(space, space.complete(trial.settings), order, generator, LOCAL_STEPS // (1 + number // 2))
    seen = {_key(trial.contender, by_name[trial.contender].complete(trial.settings)) for trial in tried}
    unique: dict[tuple[str, tuple[float, ...]], _Candidate] = {}
    for candidate in candidates:
        unique.setdefault(_key(candidate.space.contender, candidate.settings), candidate)
    return [candidate for key, candidate in unique.items() if key not in seen]


def _key(contender: str, settings: Settings) -> tuple[str, tuple[float, ...]]:
    return contender, tuple(settings[name] for name in sorted(settings))


def _opened(count: int) -> int:
    """The order up to which settings vary after so many trainings of a contender."""
    return max(order for order, needed in OPENED_AFTER.items() if count >= needed)


def _rates(space: SearchSpace, center: Settings, generator: np.random.Generator) -> list[_Candidate]:
    """A row of learning rates over the range, with all other settings as they are at the center."""
    if "lr" not in space.ranges:
        return []
    positions = (np.arange(RATES) + generator.random(RATES)) / RATES
    return [_moved(space, center, {"lr": float(position)}) for position in positions]


def _random(space: SearchSpace, order: int, generator: np.random.Generator) -> list[_Candidate]:
    """Random settings up to an order; those of a higher order stay at the starting point."""
    names = [name for name in space.ranges if space.orders[name] <= order]
    rows = generator.random((RANDOM, len(names)))
    return [_moved(space, space.anchor, dict(zip(names, map(float, row), strict=True))) for row in rows]


def _steps(
    space: SearchSpace, center: Settings, order: int, generator: np.random.Generator, count: int
) -> list[_Candidate]:
    """Steps from a setting, of several sizes; each moves about half of the settings."""
    names = [name for name in space.ranges if space.orders[name] <= order]
    positions = space.position(center)
    candidates = []
    for k in range(count if names else 0):
        moves = generator.random(len(names)) < 0.5
        moves[int(generator.integers(len(names)))] = True
        steps = generator.normal(scale=STEP_SIZES[k % len(STEP_SIZES)], size=len(names))
        moved = {
            name: min(max(positions[name] + float(step), 0.0), 1.0)
            for name, step, moving in zip(names, steps, moves, strict=True)
            if moving
        }
        candidates.append(_moved(space, center, moved))
    return candidates


def _moved(space: SearchSpace, center: Settings, positions: Mapping[str, float]) -> _Candidate:
    return _Candidate(space, {**center, **space.values_at(positions)})
