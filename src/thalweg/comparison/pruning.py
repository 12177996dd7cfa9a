"""Pruning: settings that do badly early are given up. Inside one contender's study, never across.

A rung is a share of the schedule. At each, a training goes on if it is among the best third of those of its study that
have come there so far. A population comes to a rung together and is cut exactly; trainings one after the other are
judged by those before them, and the first goes on whatever it does (Li et al. 2020, arXiv:1810.05934).

What is saved goes back to the same contender: more settings are drawn, as many as the saved steps pay for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thalweg.comparison.horizon import Horizon

SHARES = (1 / 9, 1 / 3)
KEPT = 3  # one in so many goes on


@dataclass(frozen=True)
class Rungs:
    """Where trainings are judged: after so many steps, by their losses on a split and by those of trainings before."""

    split: str
    before: Mapping[int, Sequence[float]]

    def kept(self, step: int, losses: Sequence[float]) -> list[int]:
        """Which of these trainings go on, in their order."""
        seen = sorted(loss for loss in [*self.before[step], *losses] if not math.isnan(loss))
        if not seen:
            return []
        count = len(self.before[step]) + len(losses)
        worst = seen[min(len(seen), math.ceil(count / KEPT)) - 1]
        return [k for k, loss in enumerate(losses) if loss <= worst]


def rungs_of(horizon: Horizon) -> list[int]:
    """The steps after which trainings of this length are judged."""
    steps = {round(share * horizon.steps) for share in SHARES}
    return sorted(step for step in steps if 0 < step < horizon.steps)


def cost(draws: int) -> float:
    """What so many pruned trainings cost, in whole ones."""
    total, left, done = 0.0, draws, 0.0
    for share in (*SHARES, 1.0):
        total += left * (share - done)
        left, done = math.ceil(left / KEPT), share
    return total


def drawn_for(draws: int) -> int:
    """How many settings may be drawn with pruning at the cost of so many without."""
    pruned = draws
    while cost(pruned + 1) <= draws:
        pruned += 1
    return pruned
