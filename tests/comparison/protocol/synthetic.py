"""Synthetic contenders whose truth is known, for searches of a setting."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from thalweg.comparison.protocol.design import InterimAnalysis, SettingDesign
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.protocol.setting_search import conclude, search_settings
from thalweg.comparison.protocol.trial import RECOMMENDED, START, TrialRequest, TrialScore

MARGIN = 0.03
Score = Callable[[TrialRequest], TrialScore]
RACING = SettingDesign(finalists=4, final_seeds=2, racers=2, race=(InterimAnalysis(6, 0.05),), value=4)


class Source:
    """Answers requests by a function, as long as the budget lasts; proposes for the contenders in turn."""

    def __init__(self, names: str, score: Score, budget: float, capacity: int = 1, starts: bool = True) -> None:
        self.names, self.score, self.left, self.capacity = names, score, budget, capacity
        self.scores: dict[TrialRequest, TrialScore] = {}
        self.batches: list[int] = []
        ids = [START.trial, RECOMMENDED.trial] if starts else []
        self.waiting = [(name, trial) for trial in ids for name in names]
        self.number = 0

    def propose(self, count: int) -> list[TrialRequest]:
        proposals = []
        for _ in range(count):
            if self.waiting:
                name, trial = self.waiting.pop(0)
            else:
                name, trial = self.names[self.number % len(self.names)], self.number
                self.number += 1
            proposals.append(TrialRequest("search", name, 0, trial, ("search", 0, 0)))
        return proposals

    def run_trials(self, requests: Sequence[TrialRequest]) -> Mapping[TrialRequest, TrialScore]:
        self.batches.append(len(requests))
        affordable = requests[: int(self.left)]
        self.left -= len(affordable)
        done = {request: self.score(request) for request in affordable}
        self.scores |= done
        return done

    def trainings_left(self) -> float:
        return self.left

    def stages(self) -> Counter[str]:
        return Counter(request.stage for request in self.scores)


def plain(value: float) -> TrialScore:
    return TrialScore(value, value)


def run(
    design: SettingDesign,
    score: Score,
    budget: float,
    names: str = "ab",
    cost: Mapping[str, int] | None = None,
    trades: bool = False,
    capacity: int = 1,
) -> tuple[Source, Findings]:
    source = Source(names, score, budget, capacity)
    costs = cost or dict.fromkeys(names, 0)
    search_settings(design, source, cost=costs, margin=lambda leader: MARGIN, trades=trades)
    return source, findings_of(design, source.scores, names, costs, trades)


def findings_of(
    design: SettingDesign,
    scores: Mapping[TrialRequest, TrialScore],
    names: str = "ab",
    cost: Mapping[str, int] | None = None,
    trades: bool = False,
) -> Findings:
    costs = cost or dict.fromkeys(names, 0)
    return conclude(design, scores, names, cost=costs, margin=lambda leader: MARGIN, trades=trades)


def noisy(truth: Callable[[str, int], float], spread: float, seed: int = 0) -> Score:
    """Return scores with noise of their own for each setting, seed and split, and a part that settings share."""

    @cache
    def noise(name: tuple[str, int, int]) -> np.ndarray:
        rng = np.random.default_rng([seed, *"".join(map(str, name)).encode()])
        return spread * (rng.standard_normal((2, 3, 200)) + rng.standard_normal() / 2)

    def score(request: TrialRequest) -> TrialScore:
        own = noise(request.seed)[:, ord(request.contender) - ord("a"), request.trial + 2]
        return TrialScore(*(float(truth(request.contender, request.trial) + part) for part in own))

    return score


def by_number(name: str, trial: int) -> float:
    """A truth in which contender a is better by 0.2, and later settings are better; starts are worst."""
    return (0.0 if name == "a" else 0.2) - 0.01 * max(trial, -1)


def plain_by_number(request: TrialRequest) -> TrialScore:
    return plain(by_number(request.contender, request.trial))
