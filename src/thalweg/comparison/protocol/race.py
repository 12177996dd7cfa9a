"""Race: the chosen settings, trained from fresh seeds until they are told apart."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, Protocol

from thalweg.comparison.protocol import statistics
from thalweg.comparison.protocol.design import Design
from thalweg.comparison.protocol.trial import RunTrials, SettingId, evaluation_scores, flatten, seed_requests

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
            ``unraced`` if there was no race, else ``open``.
        recommended: The cheapest contender of ``within`` that is seldom lost. None if all are often lost.
        seeds_needed: If the race is open, the seeds that would separate the contenders. None if that is unknown.
        unraced: The contenders that did not race although others did, the best selection score first. Their columns of
            ``scores`` and ``completed`` are empty, and they are in no other list.
    """

    scores: dict[str, list[float]]
    completed: dict[str, list[bool]]
    dropped: list[list[str]]
    remaining: list[str]
    within: list[str]
    settled: Literal["best", "within", "open", "unraced"]
    recommended: str | None
    seeds_needed: int | None
    unraced: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _InterimResult:
    """The result of one interim analysis of a race. The lists are in the order of `Race`."""

    leader: str
    margin: float
    remaining: list[str]
    within: list[str]
    dropped: list[str]

    @property
    def is_settled(self) -> bool:
        return len(self.within) == len(self.remaining)


class RaceRunner:
    """Trains the chosen settings from fresh seeds, and drops contenders until the race is settled."""

    def __init__(
        self,
        design: Design,
        settings: Mapping[str, SettingId],
        run_trials: RunTrials,
        margin: Callable[[float], float],
    ) -> None:
        self.design, self.settings, self.run_trials, self.margin = design, settings, run_trials, margin
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
            result = self._analyse(remaining, analysis.alpha)
            remaining = result.remaining
            dropped.append(result.dropped)
            if result.is_settled:
                break
        settled: Literal["best", "within", "open"] = (
            "best" if len(remaining) == 1 else "within" if result.is_settled else "open"
        )
        return Race(
            scores=self.scores,
            completed=self.completed,
            dropped=dropped,
            remaining=remaining,
            within=result.within,
            settled=settled,
            recommended=self._recommend(result, cost),
            seeds_needed=self._seeds_needed(result) if settled == "open" else None,
        )

    def _train(self, names: Sequence[str], indices: range) -> None:
        requests = {name: seed_requests("race", name, self.settings[name], indices) for name in names}
        scores = self.run_trials(flatten(requests.values()))
        for name, trained in requests.items():
            self.scores[name] += evaluation_scores(trained, scores)
            self.completed[name] += [scores[request].completed for request in trained]
            if any(scores[request].clipped for request in trained):
                self.clipped.add(name)

    def _analyse(self, names: Sequence[str], alpha: float) -> _InterimResult:
        (leader, *tied), worse = statistics.drop({name: self.scores[name] for name in names}, alpha)
        margin = self.margin(fmean(self.scores[leader]))

        def is_within(name: str) -> bool:
            # A clipped score is a bound: the loss that was measured may lie far above it.
            return name not in self.clipped and statistics.surely_within(
                self.scores[name], self.scores[leader], margin, alpha, len(names)
            )

        within = [leader, *filter(is_within, tied + worse)]
        # A contender that is worse by too little to matter stays in the race: it may be the cheapest.
        dropped = [name for name in worse if name not in within]
        remaining = sorted((name for name in names if name not in dropped), key=lambda name: fmean(self.scores[name]))
        return _InterimResult(leader, margin, remaining, within, dropped)

    def _recommend(self, result: _InterimResult, cost: Mapping[str, Comparable]) -> str | None:
        """Return the cheapest contender within the margin that is seldom lost; of equal costs the better one."""
        reliable = [
            name
            for name in result.within
            if self.completed[name].count(False) <= MAX_LOST_SHARE * len(self.completed[name])
        ]
        return min(reliable, key=lambda name: (cost[name], result.remaining.index(name)), default=None)

    def _seeds_needed(self, result: _InterimResult) -> int | None:
        """Return the seeds that would separate the leader from all others; None without a spread or a margin."""
        leader = self.scores[result.leader]
        if len(leader) < 2 or result.margin <= 0:  # of a leader at zero nothing is a share
            return None
        return max(
            statistics.seeds_to_settle(self.scores[name], leader, result.margin) for name in result.remaining[1:]
        )
