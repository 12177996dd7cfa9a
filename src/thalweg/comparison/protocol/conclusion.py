"""Conclusion: the best answer that the trainings of a setting search allow, at whatever moment it ended.

A setting is a contender with the number of its trial. Settings are compared over seeds that they share, in the latest
stage that has such seeds: the race, else the finals, else the search. So a default or a starting point that was
measured better than a searched setting is the answer.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from thalweg import statistics
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.protocol.procedure import Evidence, Findings
from thalweg.comparison.protocol.race import Comparable, InterimResult, Race, analyse, is_reliable, seeds_needed
from thalweg.comparison.protocol.trial import RECOMMENDED, START, SettingId, TrialRequest, TrialScore

Setting = tuple[str, SettingId]
Column = dict[int, TrialScore]  # by the index of the seed

FAR_BEHIND = 8.0  # margins by which a default or starting point may trail the best on one seed and still go on
MIN_RACE_SEEDS = 2  # one pair has no spread


@dataclass(frozen=True)
class RaceResult:
    """The race between settings.

    Attributes:
        last: The last interim analysis.
        dropped: The settings that each analysis dropped.
        columns: The evaluation scores of each setting that raced, from the seeds of its last analysis.
        completed: True for each seed that was not lost, by setting.
    """

    last: InterimResult[Setting]
    dropped: list[list[Setting]]
    columns: dict[Setting, list[float]]
    completed: dict[Setting, list[bool]]

    @property
    def is_settled(self) -> bool:
        """True if all remaining settings are shown to lie within the margin of the leader."""
        return set(self.last.remaining) <= set(self.last.within)


class Trials:
    """The trainings of a setting search so far, and what they say.

    Args:
        design: The rules.
        scores: The scores of all trainings that exist, in any order.
        cost: The cost of each contender.
        margin: A function from a mean score to the difference in scores that is too small to matter.
        trades: True if a loss that is shown to be worse, but lies within the margin, may be traded for a lesser cost.
    """

    def __init__(
        self,
        design: SettingDesign,
        scores: Mapping[TrialRequest, TrialScore],
        *,
        cost: Mapping[str, Comparable],
        margin: Callable[[float], float],
        trades: bool = False,
    ) -> None:
        self.design, self.cost, self.margin, self.trades = design, cost, margin, trades
        self.stages: dict[str, dict[Setting, Column]] = {}
        self.num_stopped = 0
        # In an order that does not depend on that of the store.
        for request in sorted(scores):
            if scores[request].stopped:
                self.num_stopped += 1
                continue
            setting = (request.contender, SettingId(request.study, request.trial))
            self.stages.setdefault(request.stage, {}).setdefault(setting, {})[request.seed[2]] = scores[request]

    @cached_property
    def searched(self) -> list[Setting]:
        """All settings that the search trained to their end, the best first; of equals the earlier one."""
        columns = self.stages.get("search", {})
        return sorted(columns, key=lambda setting: (_mean_selection(columns[setting], [0]), setting[1].trial))

    @cached_property
    def finalists(self) -> list[Setting]:
        """The settings for the finals: the best of the search, and the best default or starting point.

        The best of many scores is lucky. Once fresh seeds show how good it is, a start that seemed far behind enters.
        Its only score is from the seed of the search: an easy seed lets one more start in, and the finals judge it.
        """
        if not self._final_seeds:
            return self._first_finalists
        lead = min(self._final_score(setting) for setting in self._first_finalists)
        start = self._best_start(self.searched, self.stages["search"], [0], lead)
        return list(dict.fromkeys([*self._first_finalists, *([] if start is None else [start])]))

    @cached_property
    def _first_finalists(self) -> list[Setting]:
        """The finalists by the search alone."""
        best: list[Setting] = []
        # For a race of several contenders, room is kept for the best setting of each.
        limit = self.design.finalists - max(0, self.design.racers - 1)
        for setting in self.searched:
            if sum(name == setting[0] for name, _ in best) < limit:
                best.append(setting)
        best = best[: self.design.finalists]
        start = self._best_start(self.searched, self.stages.get("search", {}), [0])
        return best if start is None or start in best else [*best, start]

    @cached_property
    def standing(self) -> list[Setting]:
        """All settings, the best first: finalists by the seeds that all of them have, then the rest by the search."""
        ranked = sorted(self._compared, key=self._final_score)
        return ranked + [setting for setting in self.searched if setting not in ranked]

    @cached_property
    def _final_seeds(self) -> list[int]:
        """The seeds of the finals that all first finalists have; none if one of them was not trained."""
        columns = [self.stages.get("final", {}).get(setting, {}) for setting in self._first_finalists]
        return sorted(set(columns[0]).intersection(*columns[1:])) if columns else []

    @cached_property
    def _compared(self) -> list[Setting]:
        """The finalists that the finals compare; none without a seed. A late start needs all of these seeds."""
        columns, seeds = self.stages.get("final", {}), set(self._final_seeds)
        return [setting for setting in self.finalists if seeds and seeds <= columns.get(setting, {}).keys()]

    def _final_score(self, setting: Setting) -> float:
        return _mean_selection(self.stages["final"][setting], self._final_seeds)

    @cached_property
    def racers(self) -> list[Setting]:
        """The settings for the race: the best of each of the best contenders, and starting points that are as good."""
        finalists = [setting for setting in self.standing if setting in (self._compared or self.finalists)]
        best: dict[str, Setting] = {}
        for setting in finalists:
            best.setdefault(setting[0], setting)
        chosen = list(best.values())[: self.design.racers]
        if not chosen:
            return []
        last = finalists.index(chosen[-1])
        starts = [setting for setting in finalists[:last] if _is_start(setting) and setting not in chosen]
        seeds = self._final_seeds
        best_start = self._best_start(finalists, self.stages["final"], seeds) if seeds else None
        if best_start is not None and best_start not in [*chosen, *starts]:
            starts.append(best_start)
        return chosen + starts

    def _best_start(
        self,
        ranked: Sequence[Setting],
        columns: Mapping[Setting, Column],
        seeds: Sequence[int],
        lead: float = -math.inf,
    ) -> Setting | None:
        """The best default or starting point, unless it is far behind the best, or behind the lead if that is worse."""
        start = next(filter(_is_start, ranked), None)
        if start is None:
            return None
        best = max(lead, _mean_selection(columns[ranked[0]], seeds))
        gap = _mean_selection(columns[start], seeds) - best
        return start if gap <= FAR_BEHIND * self.margin(best) else None

    @cached_property
    def race(self) -> RaceResult | None:
        """The race, as far as it was run; None if it has too few seeds for a test."""
        columns = self.stages.get("race", {})
        entrants = [setting for setting in self.racers if setting in columns]
        if len(entrants) < 2 or not self.design.race:
            return None
        dropped: list[list[Setting]] = []
        counted: dict[Setting, list[int]] = {}  # the seeds that were analysed
        result = None
        for analysis in self.design.race:
            common = sorted(set.intersection(*(set(columns[setting]) for setting in entrants)))
            seeds = [seed for seed in common if seed < analysis.size]
            if len(seeds) < MIN_RACE_SEEDS:
                break
            values = {entrant: [columns[entrant][seed].evaluation_score for seed in seeds] for entrant in entrants}
            clipped = [entrant for entrant in entrants if any(columns[entrant][seed].clipped for seed in seeds)]
            counted |= dict.fromkeys(entrants, seeds)
            result = analyse(values, analysis.alpha, self.margin, clipped)
            dropped.append([entrant for entrant in result.worse if entrant not in result.remaining])
            entrants = result.remaining
            if len(seeds) < analysis.size or len(result.within) == len(entrants):
                break
        if result is None:
            return None
        ordered = {setting: [columns[setting][seed] for seed in seeds] for setting, seeds in counted.items()}
        return RaceResult(
            result,
            dropped,
            {setting: [score.evaluation_score for score in scores] for setting, scores in ordered.items()},
            {setting: [score.completed for score in scores] for setting, scores in ordered.items()},
        )

    @cached_property
    def recommended(self) -> Setting | None:
        """The setting to use; None if all are often lost, or none was trained."""
        race = self.race
        if race is None:
            return next((setting for setting in self.standing if self._is_reliable(setting)), None)
        result = race.last
        leader = result.remaining[0]
        # What was measured no worse than every start that raced, and is not shown to be worse than the leader.
        starts = [setting for setting in result.remaining if _is_start(setting)]
        last = result.remaining.index(starts[0]) if starts else len(result.remaining)
        candidates = [
            setting
            for setting in result.within
            if (self.trades or (setting not in result.worse and result.remaining.index(setting) <= last))
            and is_reliable(race.completed[setting])
        ]
        order = result.remaining
        same = [setting for setting in candidates if setting[0] == leader[0]]
        cheapest = min(candidates, key=lambda entry: (self.cost[entry[0]], order.index(entry)), default=None)
        return same[0] if cheapest is not None and cheapest[0] == leader[0] else cheapest

    def _is_reliable(self, setting: Setting) -> bool:
        stages = (self.stages.get(stage, {}).get(setting, {}) for stage in ("search", "final"))
        return is_reliable([score.completed for column in stages for score in column.values()])

    def scores_of(self, setting: Setting) -> list[float]:
        """Return the evaluation scores of a setting in the latest stage that trained it; an empty list without any."""
        for stage in ("race", "final", "search"):
            if column := self.stages.get(stage, {}).get(setting):
                return [column[seed].evaluation_score for seed in sorted(column)]
        return []

    def final_seeds(self, setting: Setting) -> int:
        """Return the number of fresh seeds over which a setting was compared in the finals."""
        return len(self._final_seeds) if setting in self._compared else 0

    def selection_score(self, setting: Setting) -> float:
        """Return the mean selection score of a setting in the finals, else its score in the search."""
        if setting in self._compared:
            return self._final_score(setting)
        return _mean_selection(self.stages["search"][setting], [0])


def conclude(
    design: SettingDesign,
    scores: Mapping[TrialRequest, TrialScore],
    names: Sequence[str],
    *,
    cost: Mapping[str, Comparable],
    margin: Callable[[float], float],
    trades: bool = False,
) -> Findings:
    """Return the best answer that the trainings so far allow.

    Args:
        design: The rules.
        scores: The scores of all trainings that exist, in any order.
        names: The contenders, in the user's order.
        cost: The cost of each contender. Of settings that are shown to lie within the margin of the leader, and not to
            be worse, that of the cheapest contender is recommended.
        margin: A function from the leader's mean score to the difference in scores that is too small to matter.
        trades: True to recommend the cheapest within the margin even if it is shown to be a little worse.

    Returns:
        Findings without a ranking. ``race.settled`` is ``unraced`` if there was no race. ``chosen_settings`` lacks the
        contenders of which no training ended (``evidence.untried``). If none ended at all, ``race.remaining`` is empty.
    """
    trials = Trials(design, scores, cost=cost, margin=margin, trades=trades)
    chosen: dict[str, Setting] = {}
    for setting in trials.standing:
        chosen.setdefault(setting[0], setting)
    race = trials.race
    if race is not None:
        raced = sorted(race.columns, key=lambda setting: (setting not in race.last.remaining, _mean(race, setting)))
        for setting in reversed(raced):
            chosen[setting[0]] = setting
    recommended = trials.recommended
    if recommended is not None:
        chosen[recommended[0]] = recommended
    order = [name for name, _ in trials.standing]
    tried = list(dict.fromkeys(order))
    value = trials.stages.get("value", {}).get(recommended, {}) if recommended is not None else {}
    return Findings(
        ranking=None,
        chosen_settings={name: chosen[name][1] for name in names if name in chosen},
        race=_unraced(trials, tried, chosen) if race is None else _by_contender(trials, race, tried, chosen),
        value_scores=[value[seed].evaluation_score for seed in sorted(value)],
        untuned_scores={name: trials.scores_of((name, START)) for name in names},
        recommended_scores={name: scored for name in names if (scored := trials.scores_of((name, RECOMMENDED)))},
        evidence=Evidence(
            searched=len(trials.searched),
            stopped=trials.num_stopped,
            final_seeds=0 if recommended is None else trials.final_seeds(recommended),
            race_seeds=0 if race is None or recommended is None else len(race.columns.get(recommended, [])),
            value_seeds=len(value),
            selection_scores={name: trials.selection_score(chosen[name]) for name in tried},
            untried=[name for name in names if name not in tried],
        ),
    )


def _unraced(trials: Trials, tried: Sequence[str], chosen: Mapping[str, Setting]) -> Race:
    recommended = None if trials.recommended is None else trials.recommended[0]
    return Race(
        scores={name: [] for name in tried},
        completed={name: [] for name in tried},
        dropped=[],
        remaining=list(tried),
        within=list(tried[:1]),
        settled="unraced",
        recommended=recommended,
        seeds_needed=None,
    )


def _by_contender(trials: Trials, race: RaceResult, tried: Sequence[str], chosen: Mapping[str, Setting]) -> Race:
    """The race of settings as one of contenders, each at its best setting."""
    result = race.last
    remaining = list(dict.fromkeys(name for name, _ in result.remaining))
    within = [name for name in dict.fromkeys(name for name, _ in result.within) if chosen[name] in result.within]
    raced = list(dict.fromkeys(name for name, _ in race.columns))
    gone: list[list[str]] = []
    counted: set[str] = set()
    for number in range(len(race.dropped)):
        out = {setting for dropped in race.dropped[: number + 1] for setting in dropped}
        names = [
            name
            for name in dict.fromkeys(name for name, _ in race.dropped[number])
            if name not in counted and all(setting in out for setting in race.columns if setting[0] == name)
        ]
        counted |= set(names)
        gone.append(names)
    settled: Literal["best", "within", "open"]
    settled = "best" if len(remaining) == 1 else "within" if set(remaining) <= set(within) else "open"
    columns = {name: race.columns[chosen[name]] for name in raced}
    return Race(
        scores={name: columns.get(name, []) for name in tried},
        completed={name: race.completed[chosen[name]] if name in columns else [] for name in tried},
        dropped=gone,
        remaining=remaining,
        within=within,
        settled=settled,
        recommended=None if trials.recommended is None else trials.recommended[0],
        seeds_needed=seeds_needed(columns, remaining, result.margin) if settled == "open" else None,
        unraced=[name for name in tried if name not in columns],
    )


def _is_start(setting: Setting) -> bool:
    return setting[1].trial < 0


def _mean_selection(column: Column, seeds: Sequence[int]) -> float:
    return statistics.mean(column[seed].selection_score for seed in seeds)


def _mean(race: RaceResult, setting: Setting) -> float:
    return statistics.mean(race.columns[setting])
