"""Setting search: question S by an adaptive, anytime search over all contenders. It trains nothing itself.

Stages, in this order. All seeds of a stage are shared by the settings that it trains:

    search     starting points and proposals, one training each, from one seed that all share
    final      the best settings over all contenders, from fresh seeds; the mean chooses
    race       the best setting of each of the few best contenders, from fresh seeds, with tests
    value      the recommended setting, from seeds that nothing else used

`conclude` is a pure function of the trainings that exist, however the search ended.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.protocol.race import Comparable
from thalweg.comparison.protocol.trial import TrialRequest, TrialScore


class TrialSource(Protocol):
    """Trains what the procedure requests, until the budget is spent.

    Attributes:
        capacity: The number of trainings that run at once: workers times members of a population.
    """

    capacity: int

    def propose(self, count: int) -> list[TrialRequest]:
        """Return at most ``count`` new trials of the search, over all contenders; an empty list if nothing is left.

        Their stage is ``search``, their study 0, their seed ``("search", 0, 0)``. Their trial is `START.trial` or
        `RECOMMENDED.trial` for a contender's defaults and its starting point, else the number of the proposal over all
        contenders. The source keeps the settings of each.
        """
        ...

    def run_trials(self, requests: Sequence[TrialRequest]) -> Mapping[TrialRequest, TrialScore]:
        """Return the scores of the trainings that ended; fewer than requested if the budget ran out."""
        ...

    def trainings_left(self) -> float:
        """Return the number of whole trainings that the budget still pays for; 0 if it is spent or interrupted."""
        ...


def search_settings(design: SettingDesign, source: TrialSource) -> None:
    """Search, choose, race and measure until the budget is spent or nothing is left to do.

    Args:
        design: The rules, fixed beforehand.
        source: Trains. What it returned is what `conclude` later reads from the store.
    """
    raise NotImplementedError


def conclude(
    design: SettingDesign,
    scores: Mapping[TrialRequest, TrialScore],
    names: Sequence[str],
    *,
    cost: Mapping[str, Comparable],
    margin: Callable[[float], float],
) -> Findings:
    """Return the best answer that the trainings so far allow.

    Args:
        design: The rules.
        scores: The scores of all trainings that exist, in any order.
        names: The contenders, in the user's order.
        cost: The cost of each contender. The cheapest of those within the margin is recommended.
        margin: A function from the leader's mean score to the difference in scores that is too small to matter.

    Returns:
        Findings without a ranking. ``race.settled`` is ``unraced`` if there was no race. ``chosen_settings`` lacks the
        contenders of which no training ended (``evidence.untried``). If none ended at all, ``race.remaining`` is empty.
    """
    raise NotImplementedError
