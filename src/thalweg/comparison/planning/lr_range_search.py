"""Frontier: whether the best learning rate lies within the range that is searched. If not, the range grows.

A best point at the end of a range means that the search is not finished. So before the first study each contender
trains a row of learning rates, everything else as it starts; where the best is at an end, the range grows tenfold
on that side, at most twice, the same for all contenders. What was trained here is thrown away.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.trainer import train_all
from thalweg.rules import Range
from thalweg.tasks import Task

POINTS = 16
ALLOWED = 2
_FACTOR = 10.0
_AT_END = 2  # points from the end

Train = Callable[[Sequence[Contender], Sequence[Trial]], list[TrainingResult]]


def extend_lr_ranges(
    task: Task,
    contenders: Sequence[Contender],
    schedules: Mapping[str, TrainingSchedule],
    members: Mapping[str, int],
    seed: int,
) -> dict[str, tuple[Range, int]]:
    """The learning rates' ranges that had to grow, and how many times they did, by contender."""

    def train(asked: Sequence[Contender], trials: Sequence[Trial]) -> list[TrainingResult]:
        found: dict[int, TrainingResult] = {}
        groups: dict[Hashable, list[int]] = {}
        for k, one in enumerate(asked):
            groups.setdefault((one.population_key, schedules[one.name]), []).append(k)
        for alike in groups.values():
            size = members[asked[alike[0]].name]
            for start in range(0, len(alike), size):
                part = alike[start : start + size]
                schedule = replace(schedules[asked[part[0]].name], looks=1)
                results = train_all(task, [asked[k] for k in part], [trials[k] for k in part], schedule)
                found |= dict(zip(part, results, strict=True))
        return [found[k] for k in range(len(asked))]

    return extended_ranges(contenders, task.selected_on, seed, train)


def extended_ranges(
    contenders: Sequence[Contender], split: str, seed: int, train: Train
) -> dict[str, tuple[Range, int]]:
    """The same, with the training handed in."""
    ranges = {one.name: one.space(1).get("lr") for one in contenders}
    free = [one for one in contenders if "lr" not in one.ranges]  # a range of the user's stays as it is
    growing = [one for one in free if (found := ranges[one.name]) is not None and found.scale == "log"]
    times = dict.fromkeys(ranges, 0)
    for _ in range(ALLOWED):
        asked = [one for one in growing for _ in range(POINTS)]
        rates = [ranges[one.name].value_at(k / (POINTS - 1)) for one in growing for k in range(POINTS)]  # type: ignore[union-attr]
        results = iter(train(asked, [Trial({"lr": rate}, seed) for rate in rates]))
        for one in list(growing):
            losses = [
                getattr(end, split) if end.status == "ok" else math.inf
                for _, end in zip(range(POINTS), results, strict=False)
            ]
            wider = _wider(one, ranges[one.name], min(range(POINTS), key=losses.__getitem__))
            if wider is None:
                growing.remove(one)
            else:
                ranges[one.name], times[one.name] = wider, times[one.name] + 1
        if not growing:
            break
    return {name: (found, times[name]) for name, found in ranges.items() if found is not None and times[name]}


def _wider(contender: Contender, found: Range | None, best: int) -> Range | None:
    """The range with more room on the side where the best point is; None if it is not at an end."""
    assert found is not None
    bound = contender.rule.hypers()["lr"].bound
    if best < _AT_END:
        wider = replace(found, low=found.low / _FACTOR)
    elif best >= POINTS - _AT_END:
        wider = replace(found, high=found.high * _FACTOR)
    else:
        return None
    return wider if bound is None or (wider.low in bound and wider.high in bound) else None
