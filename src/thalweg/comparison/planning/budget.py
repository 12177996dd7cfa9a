"""Budget: how much a comparison may cost, and the design that buys.

A budget is a time for everything (`90s`, `2m`, `1h`); or, for each contender, search trials of one study (`16trials`),
of several (`8x24trials`), optimizer steps (`100000steps`) or passes over the data (`500passes`). All but the trials are
turned into one of a ladder of designs, whose rungs differ by about two in cost, so that a somewhat faster or slower
hour of the same machine leads to the same plan.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from thalweg.comparison.protocol.design import Design, InterimAnalysis
from thalweg.errors import BudgetError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_TRIALS = re.compile(r"(?:(\d+)\s*x\s*)?(\d+)\s*trials?")
_WORK = re.compile(r"(\d+)\s*(steps|passes)")
SAFETY = 0.85  # of a time may be planned: predictions come from a short pilot
_LEAST_STUDIES = 2  # one study has no spread to judge a difference by


def _single(draws: int, retrained: int, reseeds: int, seeds: int) -> Design:
    """One study, which answers question S alone."""
    race = (InterimAnalysis(seeds, 0.05),)
    return Design(draws, retrained, reseeds, 0, ranking=(), finalists=0, refinals=0, race=race, value=seeds)


_SINGLES = (_single(4, 1, 0, 5), _single(8, 2, 2, 5), _single(16, 3, 2, 10), _single(32, 3, 3, 10))
# The levels of all looks add up to 5 % for each question. How often each rung is wrong: `benchmarks/calibration`.
_LONE = (*_SINGLES, _single(64, 3, 3, 20), _single(128, 6, 6, 40))
_LONG_RACE = (
    InterimAnalysis(10, 0.005),
    InterimAnalysis(20, 0.008),
    InterimAnalysis(40, 0.012),
    InterimAnalysis(80, 0.012),
    InterimAnalysis(160, 0.013),
)
_RANKED = (
    Design(
        12,
        3,
        2,
        2,
        (InterimAnalysis(6, 0.05),),
        4,
        4,
        (InterimAnalysis(10, 0.01), InterimAnalysis(20, 0.015), InterimAnalysis(40, 0.025)),
        20,
    ),
    Design(16, 3, 3, 3, (InterimAnalysis(8, 0.05),), 6, 6, (*_LONG_RACE[:3], InterimAnalysis(80, 0.025)), 40),
    Design(24, 3, 3, 3, (InterimAnalysis(8, 0.02), InterimAnalysis(16, 0.03)), 6, 6, _LONG_RACE, 40),
    Design(
        24,
        3,
        3,
        3,
        (InterimAnalysis(8, 0.01), InterimAnalysis(16, 0.015), InterimAnalysis(24, 0.025)),
        6,
        6,
        _LONG_RACE,
        40,
    ),
)


def ladder(num_contenders: int) -> tuple[Design, ...]:
    """The designs a budget is spent on, the cheapest first. One contender alone has nobody to be ranked with."""
    return _LONE if num_contenders == 1 else (*_SINGLES, *_RANKED)


@dataclass(frozen=True)
class Budget:
    """What may be spent: one kind of these is not None; `studies` goes with `trials`."""

    seconds: float | None = None
    trials: int | None = None
    studies: int | None = None
    steps: int | None = None
    passes: int | None = None
    least: bool = False  # where it pays for no design, the cheapest is bought all the same

    @property
    def unit(self) -> str:
        """Unit of the cost of a design: ``steps``, ``passes`` or ``s``."""
        return "steps" if self.steps is not None else "passes" if self.passes is not None else "s"


DEFAULT = Budget(seconds=120.0, least=True)  # nobody asked for two minutes, so nobody is refused for them


def parse(text: str | None) -> Budget:
    """The budget that a text means, the default for None; raises BudgetError if it means none."""
    if text is None:
        return DEFAULT
    text = text.strip().lower() if isinstance(text, str) else repr(text)
    if match := _TIME.fullmatch(text):
        return Budget(seconds=float(match[1]) * _UNITS[match[2]])
    if (match := _TRIALS.fullmatch(text)) and int(match[2]) > 0:
        studies = None if match[1] is None else int(match[1])
        if studies is None or studies >= _LEAST_STUDIES:
            return Budget(trials=int(match[2]), studies=studies)
    if match := _WORK.fullmatch(text):
        work = int(match[1])
        return Budget(steps=work) if match[2] == "steps" else Budget(passes=work)
    raise BudgetError(
        f"thalweg: a budget must read like 90s, 2m, 1h, 16trials, 8x24trials, 100000steps or 500passes, got {text!r}. "
        f"A time is for the whole comparison, the others are for each contender. 16trials is one study of 16 settings; "
        f"8x24trials is 8 independent studies of 24 settings each, and of those there must be {_LEAST_STUDIES} or more."
    )


def design(budget: Budget, num_contenders: int, *, predict: Callable[[Design], float], unit: str = "s") -> Design:
    """The highest rung that a budget pays for, `predict` giving its cost in the budget's unit.

    Raises BudgetError if it pays for none, unless it is the default.
    """
    rungs = ladder(num_contenders)
    if budget.trials is not None:
        if budget.studies is not None and num_contenders > 1:
            return _studied(budget.studies, budget.trials)
        single = [rung for rung in _LONE if rung.draws <= budget.trials]
        rung = single[-1] if single else _LONE[0]
        return replace(rung, draws=budget.trials, retrained=min(rung.retrained, budget.trials))
    allowed = budget.seconds or budget.steps or budget.passes or 0
    safety = SAFETY if budget.seconds else 1.0
    affordable = [rung for rung in rungs if predict(rung) <= safety * allowed]
    if not affordable and budget.least:
        return rungs[0]
    if not affordable:
        least = predict(rungs[0]) / safety
        needed, got = (as_text(least), f"{allowed:g}s") if unit == "s" else (f"{least:.0f}{unit}", f"{allowed:g}{unit}")
        raise BudgetError(
            f"thalweg: the budget must be at least {needed} here ({rungs[0].most_trainings + rungs[0].value} trainings "
            f"for each contender), got {got}. Give more, fewer contenders, or fewer passes in the task."
        )
    return affordable[-1]


def _studied(studies: int, draws: int) -> Design:
    """A design of so many studies of so many draws, everything else as on the rung that is nearest from below."""
    reached = [rung for rung in _RANKED if rung.studies <= studies and rung.draws <= draws]
    rung = reached[-1] if reached else _RANKED[0]
    looks = (InterimAnalysis(studies, 0.05),) if rung.studies != studies else rung.ranking
    return replace(rung, draws=draws, retrained=min(rung.retrained, draws), ranking=looks)


def as_text(seconds: float) -> str:
    """A time to about two digits, rounded up, as a budget reads: 45s, 3m, 2h."""
    if seconds < 100:
        return f"{max(1, -int(-seconds // 1))}s"
    return f"{-int(-seconds // 60)}m" if seconds < 6000 else f"{-int(-seconds // 360) / 10:g}h"
