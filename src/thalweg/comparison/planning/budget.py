"""Budget: the cost that a comparison may have, and the ranking that it pays for.

A budget is a time for the whole comparison (``90s``, ``2m``, ``1h``); or, for each contender, trainings
(``16trials``), search trials of several studies (``8x24trials``), optimizer steps (``100000steps``) or passes over the
data (``500passes``). Any budget answers question S, which setting to use. A ranking of the optimizers (question O) is
made if it is requested as ``8x24trials``, or if the budget affords one of the ranked designs.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.protocol.design import Design, InterimAnalysis, analyses
from thalweg.comparison.training.timing import ExecutionMode
from thalweg.errors import BudgetError, shown

RANKING_SHARE = 0.6  # of a time: a ranking may take so much by prediction; the rest searches for the setting to use
RANKING_LIMIT = RANKING_SHARE + 0.1  # of a time, with all that comes before: studies that take longer end here
MOST_SECONDS = 366 * 24 * 3600.0  # a year
MOST_TRIALS = 1_000_000  # of a contender; more would not end, and take long to count
PROPOSAL_S = 0.4  # a model takes this long for a setting it proposes to a study
MIN_STUDIES = 2  # one study has no spread by which a difference could be judged
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}  # by the first letter
# Numbers of at most 15 digits: more are no budget of anything.
_TIME = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*(s|sec|m|min|h)")
_TRIALS = re.compile(r"(?:(\d{1,15})\s*x\s*)?(\d{1,15})\s*trials?")
_WORK = re.compile(r"(\d{1,15})\s*(steps|passes)")


# The designs of a ranking, the cheapest first. The levels of all interim analyses sum to 5 % for each question.
# `benchmarks/calibration` measures the error rates.
_LONG_RACE = analyses((10, 0.005), (20, 0.008), (40, 0.012), (80, 0.012), (160, 0.013))
RANKED = (
    Design(12, 3, 2, 2, analyses((6, 0.05)), 4, 4, analyses((10, 0.01), (20, 0.015), (40, 0.025)), 20),
    Design(16, 3, 3, 3, analyses((8, 0.05)), 6, 6, (*_LONG_RACE[:3], InterimAnalysis(80, 0.025)), 40),
    Design(24, 3, 3, 3, analyses((8, 0.02), (16, 0.03)), 6, 6, _LONG_RACE, 40),
    Design(24, 3, 3, 3, analyses((8, 0.01), (16, 0.015), (24, 0.025)), 6, 6, _LONG_RACE, 40),
)


@dataclass(frozen=True)
class Budget:
    """The cost that a comparison may have. One of ``seconds``, ``trials``, ``steps`` and ``passes`` is set.

    Attributes:
        seconds: Time for the whole comparison.
        trials: Trainings of all kinds, for each contender; with ``studies``, settings in a study.
        studies: Number of studies of a ranking, if ``trials`` is set; None if optimizers are not ranked.
        steps: Optimizer steps, for each contender.
        passes: Passes over the training data, for each contender.
    """

    seconds: float | None = None
    trials: int | None = None
    studies: int | None = None
    steps: int | None = None
    passes: int | None = None

    @property
    def is_ranking(self) -> bool:
        """True if the user requests a ranking."""
        return self.studies is not None

    def total(self, num_contenders: int) -> float:
        """Return the seconds, or the trainings, steps or passes of all contenders together."""
        if self.seconds is not None:
            return self.seconds
        each = (self.trials or 0) * (self.studies or 1) or self.steps or self.passes or 0
        return each * num_contenders

    def in_trainings(self, num_contenders: int, *, steps: int, passes: int) -> float:
        """Return the number of whole trainings of a counted budget, all contenders together.

        Args:
            num_contenders: Number of contenders.
            steps: Optimizer steps of a training.
            passes: Passes over the data of a training.
        """
        cost = steps if self.steps is not None else passes if self.passes is not None else 1
        return self.total(num_contenders) / cost

    def to_json(self) -> dict[str, Any]:
        """Return the budget as plain JSON, for the store."""
        return asdict(self)


DEFAULT = Budget(seconds=120.0)


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
    if (match := _TIME.fullmatch(text)) and float(match[1]) > 0:
        seconds = float(match[1]) * _UNITS[match[2][0]]
        if seconds > MOST_SECONDS:
            raise BudgetError(f"thalweg: a budget must be at most {MOST_SECONDS / 3600:,.0f}h, got {text}.")
        return Budget(seconds=seconds)
    if (match := _TRIALS.fullmatch(text)) and int(match[2]) > 0:
        trials, studies = int(match[2]), None if match[1] is None else int(match[1])
        if trials * (studies or 1) > MOST_TRIALS:
            raise BudgetError(
                f"thalweg: a budget must be at most {MOST_TRIALS:,} trials for each contender, got {text}."
            )
        if studies is None or studies >= MIN_STUDIES:
            return Budget(trials=trials, studies=studies)
    if (match := _WORK.fullmatch(text)) and int(match[1]) > 0:
        count = int(match[1])
        return Budget(steps=count) if match[2] == "steps" else Budget(passes=count)
    raise BudgetError(
        "thalweg: a budget must read like 90s, 2m, 1h, 16trials, 8x24trials, 100000steps or 500passes, got "
        f"{shown(text)}. A time is for the whole comparison, the others are for each contender. 16trials is 16 "
        "trainings of each "
        "contender, shared out where they help most; 8x24trials ranks the optimizers by 8 independent studies of 24 "
        f"settings each, and there must be {MIN_STUDIES} studies or more."
    )


def ranked_design(
    budget: Budget,
    num_contenders: int,
    *,
    predict: Callable[[Design], float],
    before: Callable[[Design], float] = lambda design: 0.0,
) -> Design | None:
    """Return the design of the ranking that a budget pays for; None if it pays for none.

    A contender alone is not ranked. Studies that a budget in seconds would end before their end are not begun.

    Args:
        budget: The budget.
        num_contenders: Number of contenders.
        predict: Returns the cost of a design: the seconds of its studies, or the steps or passes of one contender.
        before: Returns the seconds that are gone when the first study of a design begins, if the budget is a time.
    """
    if num_contenders == 1:
        return None
    if budget.trials is not None:
        return None if budget.studies is None else _design_of_trials(budget.trials, budget.studies)

    def is_affordable(design: Design) -> bool:
        cost = predict(design)
        if budget.seconds is None:
            return cost <= (budget.steps or budget.passes or 0)
        return cost <= RANKING_SHARE * budget.seconds and before(design) + cost <= RANKING_LIMIT * budget.seconds

    affordable = [design for design in RANKED if is_affordable(design)]
    return affordable[-1] if affordable else None


def _design_of_trials(trials: int, studies: int) -> Design:
    """Return a design of exactly so many draws and studies; all else is as in the nearest design below."""
    below = [design for design in RANKED if design.studies <= studies and design.draws <= trials]
    nearest = below[-1] if below else RANKED[0]
    ranking = nearest.ranking if nearest.studies == studies else analyses((studies, 0.05))
    return replace(nearest, draws=trials, retrained=min(nearest.retrained, trials), ranking=ranking)


def cost_of_ranking(
    design: Design,
    allowed: Budget,
    contenders: Sequence[Contender],
    schedules: Mapping[str, TrainingSchedule],
    execution_modes: Mapping[str, ExecutionMode],
    passes: int,
) -> float:
    """Return the cost of a ranking in which no contender is dropped.

    Args:
        design: The design of the ranking.
        allowed: The budget, whose unit counts: the seconds of all studies, or the steps or passes of one contender.
        contenders: All contenders.
        schedules: Length of a training, by contender.
        execution_modes: Measured times, by contender.
        passes: Passes over the data of a training.
    """
    trainings = design.most_trainings + design.value
    if allowed.steps is not None:
        return trainings * max(schedule.steps for schedule in schedules.values())
    if allowed.passes is not None:
        return trainings * passes
    populations: dict[Hashable, list[str]] = {}
    for contender in contenders:
        populations.setdefault(contender.population_key, []).append(contender.name)
    return sum(seconds_of_studies(execution_modes[names[0]], design, len(names)) for names in populations.values())


def seconds_of_studies(mode: ExecutionMode, design: Design, num_contenders: int) -> float:
    """Return the predicted seconds of all studies of contenders that share populations and are never dropped.

    Args:
        mode: Measured times of one population.
        design: The design.
        num_contenders: Contenders that share the populations.
    """
    total_s, done = 0.0, 0
    for analysis in design.ranking:
        studies, done = num_contenders * (analysis.size - done), analysis.size
        total_s += _seconds_of_search(mode, design, studies)
        total_s += mode.seconds(studies * design.retrained * design.reseeds) + mode.seconds(studies * design.judged)
    return total_s


def _seconds_of_search(mode: ExecutionMode, design: Design, studies: int) -> float:
    """Return the predicted seconds of the search of a number of studies."""
    rounds = [len(trials) for trials in design.rounds(design.draws) if trials]
    if design.pruned:
        # As many steps of members as without, but each study is a population by itself, which ends as a small one.
        training_s = studies * (len(rounds) * mode.fixed_s + design.draws * mode.member_s)
    else:
        training_s = sum(mode.seconds(count * studies) for count in rounds)
    return training_s + sum(rounds[1:]) * studies * PROPOSAL_S
