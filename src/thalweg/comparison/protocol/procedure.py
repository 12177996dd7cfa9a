"""Protocol: which trainings a comparison asks for, and what their results decide. It trains nothing itself.

Two questions, never mixed:

    O, which optimizer    each is tuned anew in independent studies (search, choice, judgement), paired by seed. After a
                          look at so many studies, those shown to be worse are dropped, and the others go on.
    S, which setting      each contender's best of the settings it searched runs a race over fresh seeds. What is left
                          is best, or within a margin, or not told apart; its value comes from seeds nothing has used.

`decide` is a pure function of the results, so the same code runs live, from a store, and on a bank of stored trainings
whose truth is known (`benchmarks/calibration`). Counts, looks and levels are in the `Design`, fixed beforehand.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from thalweg.comparison.protocol import statistics
from thalweg.comparison.protocol.design import REFINING, Design

POOLED = 8  # so many studies of each contender hand their best settings on: more would favour those that stay longer
FRAGILE = 0.1  # a contender that is lost on more than this share of the seeds is not recommended


class TrialRequest(NamedTuple):
    """A training that is asked for: of a contender, at a setting (number `trial` of a study), from a named seed."""

    stage: str
    contender: str
    study: int
    trial: int
    seed: tuple[str, int, int]


class TrialScore(NamedTuple):
    """What a training came to: the score that chooses, the score that judges, and whether it ended well.

    `clipped`: it ended worse than the untrained model, and the score which judges is a bound.
    """

    selection_score: float
    evaluation_score: float
    completed: bool = True
    clipped: bool = False


RunTrials = Callable[[Sequence[TrialRequest]], Mapping[TrialRequest, TrialScore]]
Setting = tuple[int, int]  # study and trial
START: Setting = (0, -1)  # a contender's own defaults
RECOMMENDED: Setting = (0, -2)  # the settings we advise to start from


@dataclass(frozen=True)
class Ranking:
    """Question O. `scores` are the judged scores by study; `dropped` says for each look who was shown to be worse."""

    scores: dict[str, list[float]]
    dropped: list[list[str]]
    kept: list[str]


@dataclass(frozen=True)
class Race:
    """Question S. `scores` and `completed` are by seed; `within` are shown to lie within the margin of the leader.

    `settled` is what the race ended in: `best`, `within`, or `open`.
    """

    scores: dict[str, list[float]]
    completed: dict[str, list[bool]]
    dropped: list[list[str]]
    kept: list[str]
    within: list[str]
    settled: str
    recommended: str | None
    seeds_needed: int | None


@dataclass(frozen=True)
class Findings:
    """What the trainings decided."""

    ranking: Ranking | None
    chosen: dict[str, Setting]
    race: Race
    value: list[float]
    untuned: dict[str, list[float]]  # what each contender's defaults come to, on the first seeds of the race
    recommended: dict[str, list[float]]  # the same of the settings we advise, where there are some


def decide(
    design: Design,
    draws: Mapping[str, int],
    answer: RunTrials,
    *,
    cost: Mapping[str, Any],
    margin: Callable[[float], float],
    recommended: Sequence[str] = (),
) -> Findings:
    """Ask for trainings until the questions are answered.

    `draws` says how many settings each contender has in a study (fewer than the design's where it has fewer to draw);
    `cost` orders contenders, the cheapest first; `margin` is the difference in scores that is too small to matter,
    beside a leader with such a score; `recommended` names the contenders for which settings are advised.
    """
    studies = _Studies(design, draws, answer)
    names = list(draws)
    ranking = None
    if design.ranking:
        ranking = _rank(design, names, studies)
    else:
        studies.carry_out(names, 1)
    chosen = _finalists(design, names, studies, answer)
    race = _race(design, chosen, answer, cost, margin)
    value: list[float] = []
    if race.recommended is not None and design.value:
        asks = _seeds("value", race.recommended, chosen[race.recommended], range(design.value))
        results = answer(asks)
        value = [results[ask].evaluation_score for ask in asks]
    first = range(design.race[0].size)
    untuned = {name: [TrialRequest("start", name, *START, ("race", 0, k)) for k in first] for name in names}
    advised = {
        name: [TrialRequest("recommended", name, *RECOMMENDED, ("race", 0, k)) for k in first] for name in recommended
    }
    results = answer(_flat([*untuned.values(), *advised.values()]))
    beside = [
        {name: [results[ask].evaluation_score for ask in asks] for name, asks in points.items()}
        for points in (untuned, advised)
    ]
    return Findings(ranking, chosen, race, value, *beside)


class _Studies:
    """The studies of all contenders so far."""

    def __init__(self, design: Design, draws: Mapping[str, int], answer: RunTrials) -> None:
        self.design, self.draws, self.answer = design, draws, answer
        self.pools: dict[str, list[tuple[float, Setting]]] = {name: [] for name in draws}
        self.judged: dict[str, list[float]] = {name: [] for name in draws}
        self.done = 0

    def carry_out(self, names: Sequence[str], count: int) -> None:
        """Go on until there are so many studies of these contenders; each stage of all of them is asked for at once."""
        design, new = self.design, range(self.done, count)
        wanted = [(name, study) for name in names for study in new]
        search: dict[tuple[str, int], list[TrialRequest]] = {key: [] for key in wanted}
        found: dict[TrialRequest, TrialScore] = {}
        for number in range(1 + REFINING if design.refined else 1):
            drawn = {
                (name, study): [
                    TrialRequest("search", name, study, trial, ("search", study, 0))
                    for trial in design.rounds(self.draws[name])[number]
                ]
                for name, study in wanted
            }
            found |= self.answer(_flat(drawn.values()))
            search = {key: search[key] + drawn[key] for key in wanted}
        best = {
            key: sorted(asks, key=lambda ask: (found[ask].selection_score, ask.trial))[: design.retrained]
            for key, asks in search.items()
        }
        again = {
            (name, study, one.trial): [
                TrialRequest("retrain", name, study, one.trial, ("retrain", study, k)) for k in range(design.reseeds)
            ]
            for (name, study), asks in best.items()
            for one in asks
        }
        found |= self.answer(_flat(again.values()))
        winners: dict[tuple[str, int], int] = {}
        for (name, study), asks in best.items():
            scored = []
            for one in asks:
                # Not from the seed of the search: what looked best there was lucky, too.
                retrained = again[name, study, one.trial]
                score = (
                    fmean(found[ask].selection_score for ask in retrained) if retrained else found[one].selection_score
                )
                scored.append((score, (study, one.trial)))
            if study < POOLED:
                self.pools[name] += scored
            winners[name, study] = min(scored)[1][1]
        if design.ranking:
            judged = {
                (name, study): [
                    TrialRequest("judge", name, study, trial, ("judge", study, k)) for k in range(design.judged)
                ]
                for (name, study), trial in winners.items()
            }
            found |= self.answer(_flat(judged.values()))
            for (name, _), asks in judged.items():
                self.judged[name].append(fmean(found[ask].evaluation_score for ask in asks))
        self.done = count


def _rank(design: Design, names: Sequence[str], studies: _Studies) -> Ranking:
    kept, dropped = list(names), []
    for look in design.ranking:
        studies.carry_out(kept, look.size)
        kept, worse = statistics.drop({name: studies.judged[name] for name in kept}, look.alpha)
        dropped.append(worse)
        if len(kept) == 1:
            break
    return Ranking(studies.judged, dropped, kept)


def _finalists(design: Design, names: Sequence[str], studies: _Studies, answer: RunTrials) -> dict[str, Setting]:
    """The setting of each contender that races: the best of its pool on fresh seeds."""
    pools = {name: [setting for _, setting in sorted(studies.pools[name])] for name in names}
    if not design.finalists:
        return {name: pool[0] for name, pool in pools.items()}
    asks = {
        (name, setting): _seeds("final", name, setting, range(design.refinals))
        for name, pool in pools.items()
        for setting in pool[: design.finalists]
    }
    found = answer(_flat(asks.values()))
    scored = [
        (name, fmean(found[ask].selection_score for ask in mine), setting) for (name, setting), mine in asks.items()
    ]
    return {name: min((score, setting) for other, score, setting in scored if other == name)[1] for name in names}


def _race(
    design: Design,
    chosen: Mapping[str, Setting],
    answer: RunTrials,
    cost: Mapping[str, Any],
    margin: Callable[[float], float],
) -> Race:
    scores: dict[str, list[float]] = {name: [] for name in chosen}
    completed: dict[str, list[bool]] = {name: [] for name in chosen}
    clipped: set[str] = set()
    kept, dropped, run = list(chosen), [], 0
    for look in design.race:
        asks = {name: _seeds("race", name, chosen[name], range(run, look.size)) for name in kept}
        found = answer(_flat(asks.values()))
        for name, mine in asks.items():
            scores[name] += [found[ask].evaluation_score for ask in mine]
            completed[name] += [found[ask].completed for ask in mine]
            if any(found[ask].clipped for ask in mine):
                clipped.add(name)
        run = look.size
        left, worse = statistics.drop({name: scores[name] for name in kept}, look.alpha)
        leader = scores[left[0]]
        tolerated = margin(fmean(leader))
        within = [left[0]] + [
            name
            for name in left[1:] + worse
            # A bound shows nobody to be near: what was measured may lie far above it.
            if name not in clipped and statistics.surely_within(scores[name], leader, tolerated, look.alpha, len(kept))
        ]
        # What is shown to be worse by too little to matter stays: it may be the cheapest.
        dropped.append([name for name in worse if name not in within])
        kept = sorted((name for name in kept if name not in dropped[-1]), key=lambda name: fmean(scores[name]))
        if len(within) == len(kept):
            break
    reliable = [name for name in within if completed[name].count(False) <= FRAGILE * len(completed[name])]
    settled = "best" if len(kept) == 1 else "within" if len(within) == len(kept) else "open"
    needed = None
    if settled == "open" and run > 1 and tolerated > 0:  # of a leader at zero nothing is a share
        needed = max(statistics.seeds_to_settle(scores[name], leader, tolerated) for name in kept[1:])
    recommended = min(reliable, key=lambda name: (cost[name], kept.index(name)), default=None)
    return Race(scores, completed, dropped, kept, within, settled, recommended, needed)


def _seeds(stage: str, name: str, setting: Setting, indices: Iterable[int]) -> list[TrialRequest]:
    """Trainings of one setting from seeds of a stage, the same seeds whoever trains."""
    return [TrialRequest(stage, name, *setting, (stage, 0, index)) for index in indices]


def _flat(asks: Iterable[Sequence[TrialRequest]]) -> list[TrialRequest]:
    return [ask for some in asks for ask in some]
