"""Frontier: whether the best learning rate lies within the range that is searched. If not, the range grows.

A best point at the end of a range means that the search is not finished. So before the first study each contender
trains a row of learning rates, everything else as it starts; where the best is at an end, the range grows tenfold
on that side, at most twice, the same for all contenders. What was trained here is thrown away.
"""

from collections.abc import Callable
from dataclasses import replace

from thalweg.comparison.contenders import Contender
from thalweg.comparison.horizon import Horizon
from thalweg.comparison.runs import Trial
from thalweg.comparison.training import Result, train_all
from thalweg.rules import Range
from thalweg.tasks import Task

POINTS = 16
ALLOWED = 2
_FACTOR = 10.0
_AT_END = 2  # points from the end

Train = Callable[[list[Trial]], list[Result]]


def frontier(
    task: Task, contender: Contender, horizon: Horizon, split: str, members: int, seed: int
) -> tuple[dict[str, Range], int]:
    """The range of the learning rate if it had to grow, and how many times it did."""

    def train(trials: list[Trial]) -> list[Result]:
        parts = [trials[start : start + members] for start in range(0, len(trials), members)]
        return [result for part in parts for result in train_all(task, contender, part, horizon)]

    return grown(contender, split, seed, train)


def grown(contender: Contender, split: str, seed: int, train: Train) -> tuple[dict[str, Range], int]:
    """The same, with the training handed in."""
    space = contender.space(1)
    if list(space) != ["lr"] or space["lr"].scale != "log":
        return {}, 0
    found, bound = space["lr"], contender.rule.hypers()["lr"].bound
    assert bound is not None
    for times in range(ALLOWED + 1):
        rates = [found.at(k / (POINTS - 1)) for k in range(POINTS)]
        results = train([Trial({"lr": rate}, seed) for rate in rates])
        losses = [getattr(one, split) if one.status == "ok" else float("inf") for one in results]
        best = min(range(POINTS), key=losses.__getitem__)
        lower = replace(found, low=found.low / _FACTOR)
        higher = replace(found, high=found.high * _FACTOR)
        wider = lower if best < _AT_END else higher if best >= POINTS - _AT_END else None
        if times == ALLOWED or wider is None or wider.low not in bound or wider.high not in bound:
            return ({"lr": found}, times) if times else ({}, 0)
        found = wider
    raise AssertionError("the last round returns")
