"""Budget: the cost that a comparison may have, and the design that it pays for.

A budget is a time for the whole comparison (``90s``, ``2m``, ``1h``); or, for each contender, search trials of one
study (``16trials``), of several studies (``8x24trials``), optimizer steps (``100000steps``) or passes over the data
(``500passes``). All but the trials buy a design of a ladder, whose rungs differ by about two in cost: a somewhat faster
or slower hour of the same machine leads to the same plan.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from thalweg.comparison.protocol.design import Design, InterimAnalysis
from thalweg.errors import BudgetError

SAFETY = 0.85  # a plan uses this share of a time, since predictions come from a short pilot
MIN_STUDIES = 2  # one study has no spread by which a difference could be judged
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_TRIALS = re.compile(r"(?:(\d+)\s*x\s*)?(\d+)\s*trials?")
_WORK = re.compile(r"(\d+)\s*(steps|passes)")


def _one_study(draws: int, retrained: int, reseeds: int, seeds: int) -> Design:
    """Return a design with one study, which chooses a setting and does not rank the optimizers."""
    race = (InterimAnalysis(seeds, 0.05),)
    return Design(draws, retrained, reseeds, 0, ranking=(), finalists=0, refinals=0, race=race, value=seeds)


def _analyses(*pairs: tuple[int, float]) -> tuple[InterimAnalysis, ...]:
    return tuple(InterimAnalysis(size, alpha) for size, alpha in pairs)


_SINGLE = (_one_study(4, 1, 0, 5), _one_study(8, 2, 2, 5), _one_study(16, 3, 2, 10), _one_study(32, 3, 3, 10))
# For a contender alone, which is tuned and compared with no other.
_ALONE = (*_SINGLE, _one_study(64, 3, 3, 20), _one_study(128, 6, 6, 40))
# The levels of all interim analyses sum to 5 % for each question. `benchmarks/calibration` measures the error rates.
_LONG_RACE = _analyses((10, 0.005), (20, 0.008), (40, 0.012), (80, 0.012), (160, 0.013))
_RANKED = (
    Design(12, 3, 2, 2, _analyses((6, 0.05)), 4, 4, _analyses((10, 0.01), (20, 0.015), (40, 0.025)), 20),
    Design(16, 3, 3, 3, _analyses((8, 0.05)), 6, 6, (*_LONG_RACE[:3], InterimAnalysis(80, 0.025)), 40),
    Design(24, 3, 3, 3, _analyses((8, 0.02), (16, 0.03)), 6, 6, _LONG_RACE, 40),
    Design(24, 3, 3, 3, _analyses((8, 0.01), (16, 0.015), (24, 0.025)), 6, 6, _LONG_RACE, 40),
)


def ladder(num_contenders: int) -> tuple[Design, ...]:
    """Return the designs that a budget can pay for, the cheapest first; a contender alone is not ranked."""
    return _ALONE if num_contenders == 1 else (*_SINGLE, *_RANKED)


@dataclass(frozen=True)
class Budget:
    """The cost that a comparison may have. One of ``seconds``, ``trials``, ``steps`` and ``passes`` is set.

    Attributes:
        seconds: Time for the whole comparison.
        trials: Settings in a study, for each contender.
        studies: Number of studies, if ``trials`` is set; None for one study.
        steps: Optimizer steps, for each contender.
        passes: Passes over the training data, for each contender.
        least: True to take the cheapest design if the budget pays for none.
    """

    seconds: float | None = None
    trials: int | None = None
    studies: int | None = None
    steps: int | None = None
    passes: int | None = None
    least: bool = False

    @property
    def unit(self) -> str:
        """Unit of the cost of a design: ``steps``, ``passes`` or ``s``."""
        return "steps" if self.steps is not None else "passes" if self.passes is not None else "s"


DEFAULT = Budget(seconds=120.0, least=True)  # a user who sets no budget is not refused for a small one


def parse(text: str | None) -> Budget:
    """Parse a budget.

    Args:
        text: The budget, e.g. ``2m``; None for the default.

    Raises:
        BudgetError: If the text is no budget.

    Example:
        >>> parse("8x24trials").studies
        8
    """
    if text is None:
        return DEFAULT
    text = text.strip().lower() if isinstance(text, str) else repr(text)
    if match := _TIME.fullmatch(text):
        return Budget(seconds=float(match[1]) * _UNITS[match[2]])
    if (match := _TRIALS.fullmatch(text)) and int(match[2]) > 0:
        studies = None if match[1] is None else int(match[1])
        if studies is None or studies >= MIN_STUDIES:
            return Budget(trials=int(match[2]), studies=studies)
    if match := _WORK.fullmatch(text):
        count = int(match[1])
        return Budget(steps=count) if match[2] == "steps" else Budget(passes=count)
    raise BudgetError(
        f"thalweg: a budget must read like 90s, 2m, 1h, 16trials, 8x24trials, 100000steps or 500passes, got {text!r}. "
        f"A time is for the whole comparison, the others are for each contender. 16trials is one study of 16 settings; "
        f"8x24trials is 8 independent studies of 24 settings each, and there must be {MIN_STUDIES} studies or more."
    )


def design(budget: Budget, num_contenders: int, *, predict: Callable[[Design], float], unit: str = "s") -> Design:
    """Return the largest design that a budget pays for.

    Args:
        budget: The budget.
        num_contenders: Number of contenders.
        predict: Returns the cost of a design, in ``unit``.
        unit: Unit of the budget, for messages.

    Raises:
        BudgetError: If the budget pays for no design, unless it is the default.
    """
    if budget.trials is not None:
        return _design_of_trials(budget.trials, budget.studies, num_contenders)
    rungs = ladder(num_contenders)
    allowed = budget.seconds or budget.steps or budget.passes or 0
    safety = SAFETY if budget.seconds else 1.0
    affordable = [rung for rung in rungs if predict(rung) <= safety * allowed]
    if affordable:
        return affordable[-1]
    if budget.least:
        return rungs[0]
    least = predict(rungs[0]) / safety
    needed, got = (as_text(least), f"{allowed:g}s") if unit == "s" else (f"{least:.0f}{unit}", f"{allowed:g}{unit}")
    raise BudgetError(
        f"thalweg: the budget must be at least {needed} here ({rungs[0].most_trainings + rungs[0].value} trainings "
        f"for each contender), got {got}. Raise the budget, or use fewer contenders or fewer passes in the task."
    )


def _design_of_trials(trials: int, studies: int | None, num_contenders: int) -> Design:
    """Return a design of exactly so many draws and studies; all else is as on the nearest rung below."""
    if studies is None or num_contenders == 1:
        rung = _nearest_below([rung for rung in _ALONE if rung.draws <= trials], _ALONE[0])
        return replace(rung, draws=trials, retrained=min(rung.retrained, trials))
    rung = _nearest_below([rung for rung in _RANKED if rung.studies <= studies and rung.draws <= trials], _RANKED[0])
    ranking = rung.ranking if rung.studies == studies else _analyses((studies, 0.05))
    return replace(rung, draws=trials, retrained=min(rung.retrained, trials), ranking=ranking)


def _nearest_below(below: list[Design], smallest: Design) -> Design:
    return below[-1] if below else smallest


def as_text(seconds: float) -> str:
    """Return a time as a budget reads, rounded up to about two digits: ``45s``, ``3m``, ``2h``."""
    if seconds < 100:
        return f"{max(1, -int(-seconds // 1))}s"
    return f"{-int(-seconds // 60)}m" if seconds < 6000 else f"{-int(-seconds // 360) / 10:g}h"
