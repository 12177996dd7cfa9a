"""Race: the chosen settings, trained from fresh seeds until they are told apart."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol

from thalweg import statistics
from thalweg.comparison.protocol.design import Design
from thalweg.comparison.protocol.trial import RunTrials, SettingId, evaluation_scores, flatten, seed_requests
from thalweg.statistics import Entrant

MAX_LOST_SHARE = 0.1  # a contender that is lost on more than this share of the seeds is not recommended


class Comparable(Protocol):
    """A value that can be ordered."""

    def __lt__(self, value: Any, /) -> bool: ...


@dataclass(frozen=True)
class Race:
    """The answer to question S, which setting.

    Attributes:
        scores: The evaluation score of each seed, by contender.
        completed: True for each seed that was not lost, by contender.
        dropped: The contenders that each interim analysis dropped.
        remaining: All others, the best mean first.
        within: The leader and the contenders that are shown to lie within the margin of it.
        settled: ``best`` if one contender remains, ``within`` if all remaining ones lie within the margin,
            ``unraced`` if there was no race, ``unended`` if no training has ended, else ``open``.
        recommended: The cheapest contender of ``within`` that is seldom lost and not shown to be worse, unless losses
            are traded for cost. None if all are often lost.
        seeds_needed: If the race is open, the seeds that would separate the contenders. None if that is unknown.
        unraced: The contenders that did not race although others did, the best selection score first. Their columns of
            ``scores`` and ``completed`` are empty, and they are in no other list.
    """

    scores: dict[str, list[float]]
    completed: dict[str, list[bool]]
    dropped: list[list[str]]
    remaining: list[str]
    within: list[str]
    settled: Literal["best", "within", "open", "unraced", "unended"]
    recommended: str | None
    seeds_needed: int | None
    unraced: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class InterimResult(Generic[Entrant]):
    """The result of one interim analysis.

    Attributes:
        margin: The difference in scores that is too small to matter beside the leader.
        remaining: The entrants that stay, the best mean first. The first is the leader.
        within: The leader and the entrants that are shown to lie within the margin of it.
        worse: The entrants that are shown to be worse than the leader, by whatever little.
    """

    margin: float
    remaining: list[Entrant]
    within: list[Entrant]
    worse: list[Entrant]


def analyse(
    scores: Mapping[Entrant, Sequence[float]],
    alpha: float,
    margin: Callable[[float], float],
    clipped: Collection[Entrant] = (),
) -> InterimResult[Entrant]:
    """Compare entrants by their paired scores.

    Args:
        scores: The evaluation scores of each entrant, from the same seeds.
        alpha: The level of the test among all entrants.
        margin: A function from the leader's mean score to the difference that is too small to matter.
        clipped: The entrants with a score that is only a bound.
    """
    (leader, *tied), worse = statistics.drop(scores, alpha)
    allowed = margin(statistics.mean(scores[leader]))

    def is_within(entrant: Entrant) -> bool:
        # A clipped score is a bound: the loss that was measured may lie far above it.
        return entrant not in clipped and statistics.surely_within(
            scores[entrant], scores[leader], allowed, alpha, len(scores)
        )

    within = [leader, *filter(is_within, tied + worse)]
    # An entrant that is worse by too little to matter stays.
    remaining = sorted(
        (entrant for entrant in scores if entrant not in worse or entrant in within),
        key=lambda entrant: statistics.mean(scores[entrant]),
    )
    return InterimResult(allowed, remaining, within, worse)


def is_reliable(completed: Sequence[bool]) -> bool:
    """Return True if so few runs were lost that a setting can be recommended."""
    return completed.count(False) <= MAX_LOST_SHARE * len(completed)


def seeds_needed(scores: Mapping[Entrant, Sequence[float]], remaining: Sequence[Entrant], margin: float) -> int | None:
    """Return the seeds that would separate the first of the remaining entrants from all others.

    None without a spread, a margin or another entrant.
    """
    leader = scores[remaining[0]]
    if len(remaining) < 2 or len(leader) < 2 or margin <= 0:  # of a leader at zero nothing is a share
        return None
    return max(statistics.seeds_to_settle(scores[entrant], leader, margin) for entrant in remaining[1:])


class RaceRunner:
    """Trains the chosen settings from fresh seeds, and drops contenders until the race is settled."""

    def __init__(
        self,
        design: Design,
        settings: Mapping[str, SettingId],
        run_trials: RunTrials,
        margin: Callable[[float], float],
        *,
        trades: bool = False,
    ) -> None:
        self.design, self.settings, self.run_trials, self.margin = design, settings, run_trials, margin
        self.trades = trades
        self.scores: dict[str, list[float]] = {name: [] for name in settings}
        self.completed: dict[str, list[bool]] = {name: [] for name in settings}
        self.clipped: set[str] = set()

    def run(self, cost: Mapping[str, Comparable]) -> Race:
        """Run the race to its end."""
        dropped: list[list[str]] = []
        remaining, num_seeds = list(self.settings), 0
        for analysis in self.design.race:
            self._train(remaining, range(num_seeds, analysis.size))
            num_seeds = analysis.size
            scores = {name: self.scores[name] for name in remaining}
            result = analyse(scores, analysis.alpha, self.margin, self.clipped)
            dropped.append([name for name in result.worse if name not in result.within])
            remaining = result.remaining
            is_settled = len(result.within) == len(remaining)
            if is_settled:
                break
        settled: Literal["best", "within", "open"] = (
            "best" if len(remaining) == 1 else "within" if is_settled else "open"
        )
        return Race(
            scores=self.scores,
            completed=self.completed,
            dropped=dropped,
            remaining=remaining,
            within=result.within,
            settled=settled,
            recommended=self._recommend(result, cost),
            seeds_needed=seeds_needed(self.scores, remaining, result.margin) if settled == "open" else None,
        )

    def _train(self, names: Sequence[str], indices: range) -> None:
        requests = {name: seed_requests("race", name, self.settings[name], indices) for name in names}
        scores = self.run_trials(flatten(requests.values()))
        for name, trained in requests.items():
            self.scores[name] += evaluation_scores(trained, scores)
            self.completed[name] += [scores[request].completed for request in trained]
            if any(scores[request].clipped for request in trained):
                self.clipped.add(name)

    def _recommend(self, result: InterimResult[str], cost: Mapping[str, Comparable]) -> str | None:
        """Return the cheapest contender within the margin that is seldom lost; of equal costs the better one.

        A contender that is shown to be worse is not taken for its lower cost, unless losses are traded for it.
        """
        reliable = [name for name in result.within if is_reliable(self.completed[name])]
        if not self.trades:
            reliable = [name for name in reliable if name not in result.worse] or reliable
        return min(reliable, key=lambda name: (cost[name], result.remaining.index(name)), default=None)
