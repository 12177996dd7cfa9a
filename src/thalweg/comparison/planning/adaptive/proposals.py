"""Proposals: the settings that a search over all contenders tries next.

The starting points come first. Library defaults, values of a choice that no training had, and larger values of what is
off by default follow in turns, unless they are hopeless. All other trainings are chosen by a model of all contenders
(`surrogate`) among `candidates`: rows of learning rates, random settings, and steps from the best settings so far. A
candidate is worth the improvement that is expected of it. So trainings go to the contenders and to the ranges where the
best setting may still be, and how many a contender gets is never fixed.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.planning.adaptive.candidates import Block, Candidate, Tried, candidate_blocks, key_of
from thalweg.comparison.planning.adaptive.search_space import MAX_EXTENSIONS, SearchSpace, is_rate
from thalweg.comparison.planning.adaptive.surrogate import Points, Surrogate
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.trial import RECOMMENDED, START, USER_TRIAL

START_TURN = 4  # one training in so many is for a default, a starting point or a new value (`Block.is_new`)
EQUAL_SHARE = 1 / 8  # of the search is divided equally: none is called worse that was hardly tried
EDGE = 0.06  # of a range: a best learning rate so near to its end extends it
_MAX_SCORE = 1e100
MAX_POINTS = 256  # that the model sees; of more, the best


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


def _starting_points(spaces: Sequence[SearchSpace], tried: Sequence[Tried]) -> list[Candidate]:
    """The starting points that were not tried: the user's first, then those that were measured on many tasks."""
    known = {(trial.contender, trial.trial) for trial in tried}
    of_user = [
        Candidate(space, settings, trial)
        for space in spaces
        for trial, settings in space.starts.items()
        if trial <= USER_TRIAL and (space.contender, trial) not in known
    ]
    tried_names = {trial.contender for trial in tried if trial.trial > USER_TRIAL}
    new = [space for space in spaces if space.contender not in tried_names]
    return of_user + [
        Candidate(space, dict(space.anchor), _start_number(space))
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
    spaces: Sequence[SearchSpace], tried: Sequence[Tried], picked: Sequence[Candidate], count: int, seed: int
) -> list[Candidate]:
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
    seen = {key_of(trial.contender, by_name[trial.contender].complete(trial.settings)) for trial in tried}
    seen |= {key_of(place.space.contender, place.settings) for place in picked}
    blocks = candidate_blocks(spaces, tried, best, seen, np.random.default_rng(seed))
    running = [
        (trial.contender, by_name[trial.contender].complete(trial.settings)) for trial in tried if trial.score is None
    ]
    waiting = frame.points([*running, *((place.space.contender, place.settings) for place in picked)])
    pool = frame.points_of(blocks)
    mean, covariance = Surrogate(points, scores, frame.orders).predict(pool.joined(waiting))
    rows = [(block, row) for block in blocks for row in range(len(block))]
    chosen: list[Candidate] = []
    names = Counter([trial.contender for trial in tried] + [place.space.contender for place in picked])
    turns = _Turns(
        [block.space.contender for block, _ in rows],
        np.array([block.has_turns for block, _ in rows]),
        {space.contender: names[space.contender] for space in spaces},
    )
    for number in _greatest(mean, covariance, len(rows), float(min(scores)), turns):
        block, row = rows[number]
        candidate = block.candidate(row)
        key = key_of(candidate.space.contender, candidate.settings)
        if key not in seen:
            seen.add(key)
            chosen.append(candidate)
        if len(chosen) == count:
            break
    return chosen


class _Turns:
    """The turns that expected improvement does not decide.

    Every fourth training is for a default, a starting point, or a value that was not tried of a choice or of what is
    off by default, unless they are hopeless. Before that come the contenders that have less than their part of the
    equal share.

    Args:
        names: The contender of each candidate.
        is_start: True for each candidate that is a default or starting point or has a new value, ``(candidates,)``.
        counts: The trainings of each contender so far, and those that wait.
    """

    def __init__(self, names: Sequence[str], is_start: np.ndarray, counts: Mapping[str, int]) -> None:
        self._names, self._is_start, self._counts = np.array(names), is_start, dict(counts)

    def count(self, candidate: int) -> None:
        """Count a training of a candidate."""
        self._counts[str(self._names[candidate])] += 1

    def eligible(self, left: np.ndarray, lowest: np.ndarray, best: float) -> np.ndarray:
        """Return which candidates take part in a choice.

        Args:
            left: True for each that was not chosen.
            lowest: The score that each may reach at best, as far as the model knows.
            best: The best score so far.
        """
        number = sum(self._counts.values())
        if number % START_TURN != START_TURN - 1:
            return left
        least = min(self._counts, key=lambda name: self._counts[name])
        owed = left & (self._names == least)
        if self._counts[least] < EQUAL_SHARE * number / len(self._counts) and owed.any():
            return owed
        starts = left & self._is_start & (lowest < best)
        return starts if starts.any() else left


def _greatest(
    mean: np.ndarray, covariance: np.ndarray, num_candidates: int, best: float, turns: _Turns
) -> Iterator[int]:
    """Yield candidates by expected improvement.

    One that was yielded, or waits behind the candidates, counts as trained with its expected score.
    """
    for waiting in range(num_candidates, len(mean)):
        covariance = _conditioned(covariance, waiting)
    mean, left = mean[:num_candidates], np.ones(num_candidates, dtype=bool)
    while left.any():
        deviation = np.sqrt(np.maximum(np.diag(covariance)[:num_candidates], 1e-12))
        gain = (best - mean) / deviation
        improvement = deviation * (gain * ndtr(gain) + np.exp(-(gain**2) / 2) / math.sqrt(2 * math.pi))
        winner = int(np.where(turns.eligible(left, mean - 2 * deviation, best), improvement, -1.0).argmax())
        left[winner] = False
        turns.count(winner)
        yield winner
        covariance = _conditioned(covariance, winner)


def _conditioned(covariance: np.ndarray, point: int) -> np.ndarray:
    """The covariance once the score of a point is known."""
    column = covariance[:, point]
    return np.asarray(covariance - np.outer(column, column) / max(float(column[point]), 1e-12))


def compressed(scores: Sequence[float]) -> list[float]:
    """Return scores with the bad ones drawn together: a cliff says nothing about a valley.

    Differences count in full up to the median distance from the best score, and by their logarithm beyond.
    """
    values = np.asarray(scores, dtype=float)
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _MAX_SCORE:  # squares of larger ones overflow, and only the proportions count
        values *= _MAX_SCORE / largest
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
            for name, order in space.orders.items():
                orders |= dict.fromkeys(space.columns(name), 1 if is_rate(name) else order)
        self._columns = {column: place for place, column in enumerate(orders)}
        self.orders = list(orders.values())

    def points(self, settings: Sequence[tuple[str, Settings]]) -> Points:
        """Return the points of settings, each with its contender."""
        places = np.zeros((len(settings), len(self._columns)))
        numbers = np.zeros(len(settings), dtype=int)
        for row, (name, values) in enumerate(settings):
            numbers[row], space = self._spaces[name]
            for setting in space.ranges.keys() & values.keys():
                position = [space.position_of(setting, values[setting])]
                places[row, self._columns_of(space, setting)] = space.places(setting, position)[0]
        return Points(places, numbers)

    def _columns_of(self, space: SearchSpace, name: str) -> list[int]:
        return [self._columns[column] for column in space.columns(name)]

    def points_of(self, blocks: Sequence["Block"]) -> Points:
        """Return the points of all rows of these blocks."""
        parts = []
        for block in blocks:
            start = self.points([(block.space.contender, block.center)])
            places = np.repeat(start.places, len(block), axis=0)
            for column, name in enumerate(block.names):
                own = self._columns_of(block.space, name)
                moved = block.space.places(name, block.positions[:, column])
                places[:, own] = np.where(block.moving[:, column, None], moved, places[:, own])
            parts.append(Points(places, np.repeat(start.contenders, len(block))))
        return Points(np.vstack([part.places for part in parts]), np.concatenate([part.contenders for part in parts]))
