"""Budget: how much a comparison may cost, and what counts that buys.

A budget is a time (`90s`, `2m`, `1h`) or a number of search trials for each contender (`16trials`). The first is
measured and turned into the second: counts come from a ladder whose rungs differ by about two in cost, so that a
somewhat faster or slower hour of the same machine leads to the same plan.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from thalweg.errors import BudgetError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_TRIALS = re.compile(r"(\d+)\s*trials?")


@dataclass(frozen=True)
class Counts:
    """How many trainings each contender gets.

    `trials` settings are searched with one seed; the best `retrained` of them are trained again from `reseeds` fresh
    seeds each, which choose one (so a lucky seed does not); that one is trained from `finals` more, which judge it.
    """

    trials: int
    retrained: int
    reseeds: int
    finals: int

    @property
    def trainings(self) -> int:
        return self.trials + self.retrained * self.reseeds + self.finals


LADDER = (
    Counts(trials=4, retrained=1, reseeds=0, finals=5),
    Counts(trials=8, retrained=2, reseeds=2, finals=5),
    Counts(trials=16, retrained=3, reseeds=2, finals=10),
    Counts(trials=32, retrained=3, reseeds=3, finals=10),
    Counts(trials=64, retrained=3, reseeds=3, finals=20),
    Counts(trials=128, retrained=4, reseeds=4, finals=20),
    Counts(trials=256, retrained=6, reseeds=6, finals=40),
)


@dataclass(frozen=True)
class Budget:
    """Either `seconds` or `trials`; the other is None."""

    seconds: float | None = None
    trials: int | None = None


def parse(text: str) -> Budget:
    """The budget that a text means; raises BudgetError if it means none."""
    text = text.strip().lower() if isinstance(text, str) else repr(text)
    if match := _TIME.fullmatch(text):
        return Budget(seconds=float(match[1]) * _UNITS[match[2]])
    if (match := _TRIALS.fullmatch(text)) and int(match[1]) > 0:
        return Budget(trials=int(match[1]))
    raise BudgetError(
        f"thalweg: a budget must read like 90s, 2m, 1h or 16trials, got {text!r}. "
        "A time is for the whole comparison, trials are for each contender."
    )


def counts(budget: Budget, predict: Callable[[Counts], float]) -> Counts:
    """The highest rung that a budget pays for, `predict` giving seconds; raises BudgetError if it pays for none."""
    if budget.trials is not None:
        affordable = [rung for rung in LADDER if rung.trials <= budget.trials]
        rung = affordable[-1] if affordable else LADDER[0]
        return replace(rung, trials=budget.trials, retrained=min(rung.retrained, budget.trials))
    assert budget.seconds is not None
    affordable = [rung for rung in LADDER if predict(rung) <= budget.seconds]
    if not affordable:
        least = predict(LADDER[0])
        raise BudgetError(
            f"thalweg: the budget must be at least {as_text(least)} here ({LADDER[0].trainings} trainings for each "
            f"contender), got {budget.seconds:g}s. Give more time, fewer contenders, or fewer passes in the task."
        )
    return affordable[-1]


def as_text(seconds: float) -> str:
    """A time to about two digits, rounded up, as a budget reads: 45s, 3m, 2h."""
    if seconds < 100:
        return f"{max(1, -int(-seconds // 1))}s"
    return f"{-int(-seconds // 60)}m" if seconds < 6000 else f"{-int(-seconds // 360) / 10:g}h"
