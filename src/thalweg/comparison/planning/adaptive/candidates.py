"""Candidates: the settings among which the model of a search chooses what is trained next."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.planning.adaptive.search_space import SearchSpace

OPENED_AFTER = {1: 0, 2: 2, 3: 8}  # trainings of a contender after which settings of an order vary
LOCAL_CENTERS = 4  # best settings from which steps are tried
LOCAL_STEPS = 24  # from each
STEP_SIZES = (0.02, 0.06, 0.15)  # standard deviations of steps, in shares of a range
RANDOM, RATES = 16, 16  # candidates of each contender
PARTS = 3  # of the range of a setting that is off by default; each is tried

Key = tuple[str, tuple[Any, ...]]  # a contender and its settings in the order of their names


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
    settings: Mapping[str, Any]
    score: float | None


@dataclass(frozen=True)
class Candidate:
    """Settings that may be trained next.

    Attributes:
        space: The search space of their contender.
        settings: All searched settings.
        trial: The trial of a starting point; None for other settings.
    """

    space: SearchSpace
    settings: Settings
    trial: int | None = None


@dataclass(frozen=True)
class Block:
    """Candidates of one contender around a center.

    Attributes:
        space: The search space of the contender.
        center: The settings from which all of them start.
        names: The settings that move.
        positions: Their positions, ``(candidates, names)``.
        moving: True where a setting leaves the center, ``(candidates, names)``.
        trial: The trial of the center, for a block of one that does not move.
        is_new: True if no training had a value of these candidates, or one from the same part of its range.
    """

    space: SearchSpace
    center: Settings
    names: Sequence[str]
    positions: np.ndarray
    moving: np.ndarray
    trial: int | None = None
    is_new: bool = False

    @property
    def has_turns(self) -> bool:
        """True if some turns are kept for these candidates."""
        return self.is_new or self.trial is not None

    def __len__(self) -> int:
        return len(self.positions)

    def candidate(self, row: int) -> Candidate:
        """Return a candidate with its settings."""
        moved = {
            name: float(place)
            for name, place, moving in zip(self.names, self.positions[row], self.moving[row], strict=True)
            if moving
        }
        return Candidate(self.space, {**self.center, **self.space.values_at(moved)}, self.trial)


def candidate_blocks(
    spaces: Sequence[SearchSpace],
    tried: Sequence[Tried],
    best: Sequence[Tried],
    seen: Container[Key],
    generator: np.random.Generator,
) -> list[Block]:
    """Return starting points, rows of learning rates, random settings, new values, and steps from the best settings.

    Args:
        spaces: The search space of each contender.
        tried: All trainings of the search so far.
        best: Those that have a score, the best first; at least one.
        seen: Keys of the settings that were tried, or wait.
        generator: The source of what is random.
    """
    counts = {space.contender: sum(trial.contender == space.contender for trial in tried) for space in spaces}
    by_name = {space.contender: space for space in spaces}
    blocks: list[Block] = []
    for space in spaces:
        none = np.zeros((1, 0))
        blocks += [
            Block(space, dict(start), (), none, none, trial)
            for trial, start in space.starts.items()
            if key_of(space.contender, start) not in seen
        ]
        own = next((trial for trial in best if trial.contender == space.contender), None)
        center = space.anchor if own is None else space.complete(own.settings)
        for rate in space.rates:  # a row of learning rates over the whole range
            positions = (np.arange(RATES)[:, None] + generator.random((RATES, 1))) / RATES
            blocks.append(Block(space, center, (rate,), positions, np.ones((RATES, 1), dtype=bool)))
        names = _varied(space, counts[space.contender])
        everywhere = generator.random((RANDOM, len(names)))
        blocks.append(Block(space, dict(space.anchor), names, everywhere, np.ones(everywhere.shape, dtype=bool)))
    blocks += _untried_values(by_name[best[0].contender], tried, best[0]) or _untried_amounts(
        by_name, tried, best[0], generator
    )
    for number, trial in enumerate(best[:LOCAL_CENTERS]):
        space = by_name[trial.contender]
        names = _varied(space, counts[space.contender])
        if names:
            center = space.complete(trial.settings)
            blocks.append(_steps(space, center, names, generator, LOCAL_STEPS // (1 + number // 2)))
    return blocks


def _untried_values(space: SearchSpace, tried: Sequence[Tried], best: Tried) -> list[Block]:
    """The best setting with each value of a choice without an order that no training of any contender had."""
    center = space.complete(best.settings)
    blocks = []
    for name, bounds in space.ranges.items():
        if not bounds.is_ordered:
            had = [trial.settings.get(name, center[name]) for trial in tried]
            positions = np.array([bounds.position(value) for value in bounds.values if value not in had])[:, None]
            if len(positions):
                moving = np.ones(positions.shape, dtype=bool)
                blocks.append(Block(space, center, (name,), positions, moving, is_new=True))
    return blocks


def _untried_amounts(
    spaces: Mapping[str, SearchSpace], tried: Sequence[Tried], best: Tried, generator: np.random.Generator
) -> list[Block]:
    """The best setting with larger values of what is off by default, such as weight decay.

    Small steps from 0 never reach a large value. So each part of the range that no training had is tried; the lowest
    part is as good as 0. Trainings of other contenders count if the setting is off by default there and has the same
    range.
    """
    space = spaces[best.contender]
    center = space.complete(best.settings)
    blocks = []
    for name in _varied(space, max(0, 1 + len(tried) - len(spaces))):  # trainings beyond one of each contender
        if name in space.off:
            bounds = space.ranges[name]
            comparable = {key for key, space in spaces.items() if name in space.off and space.ranges[name] == bounds}
            values = [
                spaces[trial.contender].complete(trial.settings)[name]
                for trial in tried
                if trial.contender in comparable
            ]
            tried_parts = {min(int(PARTS * space.position_of(name, value)), PARTS - 1) for value in values}
            parts = np.array([part for part in range(PARTS) if part not in tried_parts])
            positions = (parts + generator.random(len(parts)))[:, None] / PARTS
            if len(parts):
                moving = np.ones(positions.shape, dtype=bool)
                blocks.append(Block(space, center, (name,), positions, moving, is_new=True))
    return blocks


def key_of(contender: str, settings: Settings) -> Key:
    """Return the key of settings of a contender; equal settings have equal keys."""
    return contender, tuple(settings[name] for name in sorted(settings))


def _varied(space: SearchSpace, count: int) -> list[str]:
    """The settings that vary after so many trainings of a contender; those of its lowest order from the first on."""
    opened = max(order for order, needed in OPENED_AFTER.items() if count >= needed)
    opened = max(opened, min((space.orders[name] for name in space.ranges), default=opened))
    return [name for name in space.ranges if space.orders[name] <= opened]


def _steps(
    space: SearchSpace, center: Settings, names: Sequence[str], generator: np.random.Generator, count: int
) -> Block:
    """Steps of several sizes from a setting; each moves about half of the settings, and one at least."""
    positions = space.position(center)
    start = np.array([positions[name] for name in names])
    sizes = np.resize(STEP_SIZES, count)[:, None]
    moving = generator.random((count, len(names))) < 0.5
    moving[np.arange(count), generator.integers(len(names), size=count)] = True
    moved = np.clip(start + sizes * generator.standard_normal((count, len(names))), 0.0, 1.0)
    for column, name in enumerate(names):
        if not space.ranges[name].is_ordered or space.is_off(name, center[name]):  # no value is near this one
            moved[:, column] = generator.random(count)
    return Block(space, center, names, moved, moving)
