"""Setting search: question S by an adaptive, anytime search over all contenders. It trains nothing itself.

Stages, in this order. All settings of a stage share its seeds:

    search     starting points and proposals, one training each, from one seed
    final      the best settings over all contenders, from fresh seeds; the mean chooses
    race       the best setting of each of the few best contenders, from fresh seeds, with tests
    value      the recommended setting, from seeds that nothing else used

The best default or starting point goes through all stages beside the settings that were searched, as long as it is not
far behind. `conclude` (`conclusion`) gives the best answer so far at any moment, from the trainings that exist.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from thalweg.comparison.protocol.conclusion import Setting, Trials, conclude
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.protocol.race import Comparable
from thalweg.comparison.protocol.trial import TrialRequest, TrialScore

__all__ = ["TrialSource", "conclude", "search_settings"]


class TrialSource(Protocol):
    """Trains what the procedure requests, until the budget is spent.

    Attributes:
        capacity: The number of trainings that run at once: workers times members of a population.
    """

    @property
    def capacity(self) -> int:
        """Return the number of trainings that run at once: workers times members of a population."""
        ...

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


def search_settings(
    design: SettingDesign,
    source: TrialSource,
    *,
    cost: Mapping[str, Comparable],
    margin: Callable[[float], float],
    trades: bool = False,
    redesign: Callable[[], SettingDesign] | None = None,
) -> None:
    """Search, choose, race and measure until the budget is spent or nothing is left to do.

    Args:
        design: The rules when the search begins.
        source: Trains. `conclude` later reads from the store what it returned.
        cost: The cost of each contender, as in `conclude`.
        margin: A function from a mean score to the difference in scores that is too small to matter.
        trades: As in `conclude`.
        redesign: A function that returns the rules for the trainings that the budget pays for by the latest speed. It
            is called before each batch of the search, and sees no scores. None: the rules stay as they are.
    """
    scores: dict[TrialRequest, TrialScore] = {}

    def trials() -> Trials:
        return Trials(design, scores, cost=cost, margin=margin, trades=trades)

    def train(requests: Sequence[TrialRequest], kept: float = 0.0) -> bool:
        """Train in batches that fill the source; False once the budget does not pay for all of them."""
        size = max(1, source.capacity)
        for start in range(0, len(requests), size):
            if source.trainings_left() - kept < 1:
                return False
            batch = requests[start : start + size]
            done = source.run_trials(batch)
            scores.update(done)
            if len(done) < len(batch):
                return False
        return True

    while True:
        design = design if redesign is None else redesign()
        left = source.trainings_left()
        size = max(1, min(source.capacity, int((len(scores) + left) / design.rounds)))
        spare = left - (design.reserved if scores else 0)
        requests = source.propose(min(size, int(spare))) if spare >= 1 else []
        if not requests or not train(requests):
            break
    for _ in range(2):  # fresh seeds may show that a start which seemed far behind is not
        finalists = trials().finalists
        finals = [_request("final", setting, k) for k in range(design.final_seeds) for setting in finalists]
        if len(finalists) < 2 or not train([each for each in finals if each not in scores], design.value):
            break
    entrants, done = trials().racers, 0
    for analysis in design.race:
        if len(entrants) < 2:
            break
        seeds, done = range(done, analysis.size), analysis.size
        if not train([_request("race", entrant, k) for k in seeds for entrant in entrants], design.value):
            break
        race = trials().race
        if race is None or race.is_settled:
            break
        entrants = race.last.remaining
    recommended = trials().recommended
    if recommended is not None:
        train([_request("value", recommended, k) for k in range(design.value)])


def _request(stage: str, setting: Setting, index: int) -> TrialRequest:
    name, number = setting
    return TrialRequest(stage, name, *number, (stage, 0, index))
