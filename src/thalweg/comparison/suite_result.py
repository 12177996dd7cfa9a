"""Suite: the finished comparisons of several tasks, and the aggregate of their contenders."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from thalweg.comparison.finished import Comparison
from thalweg.comparison.results.aggregate import Aggregate, Runs, aggregate
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.scoring import trial_score
from thalweg.comparison.results.terms import worse
from thalweg.errors import ThalwegError
from thalweg.parts import Parts, as_plain_json
from thalweg.report_writer import load_report_writer

CAUTION = (
    "Intervals are over seeds, at the settings chosen for each task. They do not cover other tasks, on which another "
    "contender may lead, nor the settings of another search."
)


@dataclass(frozen=True)
class Standing:
    """The result of one contender on one task.

    Attributes:
        worse_by: By how much it is worse than the best contender: a share, or a difference (``Summary.worse_by``).
        lost: The seeds of the race that were lost.
        seeds: All its seeds of the race.
        best: True for the best contender.
        tied: True if it is not shown to be worse than the best.
        worse_by_text: ``worse_by`` as text.
    """

    worse_by: float
    lost: int
    seeds: int
    best: bool
    tied: bool
    worse_by_text: str = "–"


class Suite:
    """Finished comparisons on several tasks, and their aggregate.

    Attributes:
        comparisons: The finished comparisons, by the name of the task.
        failures: The errors of the tasks that failed, by the name of the task.
        parts: Makes the parts of the result, and knows those that could not be made.

    Example:
        >>> from thalweg.comparison import compare_suite
        >>> tasks = ["quadratic", "linear-regression"]
        >>> suite = compare_suite(tasks, ["gd", "adam"], budget="4trials", workers=1)
        >>> sorted(suite.matrix["linear-regression"])
        ['adam', 'gd']
    """

    def __init__(self, comparisons: Mapping[str, Comparison], failures: Mapping[str, ThalwegError]) -> None:
        self.comparisons = dict(comparisons)
        self.failures = dict(failures)
        self.parts = Parts()

    @cached_property
    def matrix(self) -> dict[str, dict[str, Standing]]:
        """The result of each contender on each task, by task and contender."""
        return {task: _standings(comparison) for task, comparison in self.comparisons.items()}

    @cached_property
    def contenders(self) -> list[str]:
        """All contenders: those in the aggregate first, the nearest to the best of each task first."""
        names = dict.fromkeys(name for comparison in self.comparisons.values() for name in comparison.plan.schedules)
        ranked = list(self.aggregate.ratio) if self.aggregate else []
        return ranked + [name for name in names if name not in ranked]

    @cached_property
    def _aggregated_tasks(self) -> list[str]:
        """The tasks that the aggregate covers: those in which a difference is a share of something."""
        return [
            task
            for task, comparison in self.comparisons.items()
            if _has_leader(comparison) and math.isfinite(_excess(comparison, 0.0))
        ]

    @cached_property
    def aggregate(self) -> Aggregate | None:
        """The aggregate of the contenders that took part in every task. None if there are none."""
        runs_by_task = [_runs(self.comparisons[task]) for task in self._aggregated_tasks]
        if not runs_by_task:
            return None
        names = [name for name in runs_by_task[0] if all(name in runs for runs in runs_by_task)]
        if not names:
            return None
        return aggregate(
            {
                name: Runs(
                    excess=[runs[name].excess for runs in runs_by_task],
                    lost=[runs[name].lost for runs in runs_by_task],
                )
                for name in names
            }
        )

    @property
    def left_out(self) -> list[str]:
        """The tasks and contenders that the aggregate does not cover, and why, in sentences."""
        sentences = [
            f"{task} is not in the means and profiles: {_why_left_out(comparison)}."
            for task, comparison in self.comparisons.items()
            if task not in self._aggregated_tasks
        ]
        sentences += [
            f"{task}: {', '.join(names)} did not race. Trainings of the search, which look too good, compare them."
            for task, comparison in self.comparisons.items()
            if (names := [s.name for s in comparison.contenders if s.beside_leader and not s.raced])
        ]
        for name in self.contenders if self._aggregated_tasks else []:
            missed = [task for task in self._aggregated_tasks if name not in _runs(self.comparisons[task])]
            if missed:
                sentences.append(
                    f"{name} is not in the means and profiles: it did not take part in {' and '.join(missed)}."
                )
        return sentences

    @property
    def text(self) -> str:
        """The result of the suite, in sentences."""
        if self.aggregate is None:
            return "There is no mean over all tasks. Each task has its own verdict."
        if len(self.contenders) == 1:
            return f"{self.contenders[0]} was tuned on {_tasks(len(self.comparisons))}."
        wins = Counter(map(_leader, filter(_has_leader, self.comparisons.values()))).most_common()
        best = f"Best mean: {', '.join(f'{name} on {_tasks(count)}' for name, count in wins)}."
        first, *following = self.aggregate.ratio
        if len(wins) == 1 and first == wins[0][0]:  # it is its own reference: its mean says nothing
            if not following:
                return best
            return f"{best} Next comes {following[0]}, {self._mean_in_words(following[0])}."
        return (
            f"Over {_tasks(len(self._aggregated_tasks))}, {first} stays nearest to the best of each task: it is "
            f"{self._mean_in_words(first)}. {best}{self._plain_mean_in_words(first)}"
        )

    @cached_property
    def plain_means(self) -> dict[str, float]:
        """By how much each contender of the aggregate is worse in the mean of its column of the matrix, least first.

        It is the geometric mean over the tasks of the aggregate. Not for contenders that lack a finite difference.
        """
        means: dict[str, float] = {}
        for name in self.aggregate.ratio if self.aggregate else ():
            mean = fmean(
                _mean_excess(self.comparisons[task], self.matrix[task][name]) for task in self._aggregated_tasks
            )
            if math.isfinite(mean):
                means[name] = math.expm1(mean)
        return dict(sorted(means.items(), key=lambda item: item[1]))

    def _plain_mean_in_words(self, first: str) -> str:
        """A sentence if the mean of the matrix names another contender than the interquartile mean; else nothing."""
        nearest = next(iter(self.plain_means), first)
        if nearest == first or first not in self.plain_means:
            return ""
        means = f"{worse(self.plain_means[nearest])} worse, {first} {worse(self.plain_means[first])}"
        return (
            f" In the plain mean over the tasks, {nearest} is nearest ({means}): the interquartile mean leaves out the "
            "best and the worst quarter of the runs."
        )

    def _mean_in_words(self, name: str) -> str:
        assert self.aggregate is not None
        ratio = self.aggregate.ratio[name]
        interval = f"95 % interval {worse(ratio.low - 1)} to {worse(ratio.high - 1)}"
        if math.isnan(ratio.low):
            interval = "one seed for each task, so no interval"
        return f"{worse(ratio.mean - 1)} worse in the interquartile mean ({interval})"

    def to_json(self) -> dict[str, Any]:
        """Return the results as plain JSON. Numbers that are not finite become None."""
        make = self.parts.make
        values = {
            "tasks": {
                task: make(f"the result of {task}", comparison.to_json, None)
                for task, comparison in self.comparisons.items()
            },
            "failures": {task: str(error) for task, error in self.failures.items()},
            "matrix": make(
                "the table",
                lambda: {
                    task: {name: vars(standing) for name, standing in standings.items()}
                    for task, standings in self.matrix.items()
                },
                {},
            ),
            **make("the means", lambda: _aggregate_json(self.aggregate), {}),
            "text": make("the overall result", lambda: self.text, ""),
            "cautions": [*make("the cautions", lambda: self.left_out, []), CAUTION],
        }
        return as_plain_json(values | {"missing_parts": [vars(part) for part in self.parts.missing]})

    def report(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the page of the suite, and the report of each task.

        Args:
            folder: The folder for `suite.html`. The report of a task lies in a folder of its own inside.
            overwrite: True replaces files that are no reports of thalweg.

        Returns:
            The path of `suite.html`.

        Raises:
            StoreError: If a file cannot be written, or the installed package declares no report writer.
        """
        return load_report_writer("suite")(self, folder, **({"overwrite": True} if overwrite else {}))


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _has_leader(comparison: Comparison) -> bool:
    """Return True if a training has ended, so that one contender is ahead."""
    return bool(comparison.contenders) and bool(comparison.contenders[0].beside_leader)


def _leader(comparison: Comparison) -> str:
    return comparison.findings.race.remaining[0]


def _leader_mean(comparison: Comparison) -> float:
    return fmean(trial_score(trial, comparison.plan).evaluation_score for _, trial in _leaders_pairs(comparison))


def _leaders_pairs(comparison: Comparison) -> list[tuple[TrialRecord, TrialRecord]]:
    leader = _leader(comparison)
    return next(summary.beside_leader for summary in comparison.contenders if summary.name == leader)


def _why_left_out(comparison: Comparison) -> str:
    if not _has_leader(comparison):
        return "no training has ended"
    if comparison.plan.scale.domain == "real":
        return "its best value is no better than the first, so there is no gain to take a share of"
    return "its best value is 0, so there is no ratio to it"


def _excess(comparison: Comparison, difference: float) -> float:
    plan = comparison.plan
    return plan.scale.excess(difference, _leader_mean(comparison), plan.judged_on)


def _mean_excess(comparison: Comparison, standing: Standing) -> float:
    plan = comparison.plan
    return plan.scale.excess_of(standing.worse_by, _leader_mean(comparison), plan.judged_on)


def _standings(comparison: Comparison) -> dict[str, Standing]:
    return {
        summary.name: Standing(
            worse_by=summary.worse_by,
            lost=summary.lost,
            seeds=len(summary.seeds),
            best=_has_leader(comparison) and summary.name == _leader(comparison),
            tied=summary.name in comparison.verdict.tied,
            worse_by_text=worse(summary.worse_by) if comparison.plan.scale.worse_by_is_share else summary.worse_by_text,
        )
        for summary in comparison.contenders
    }


@dataclass(frozen=True)
class _TaskRuns:
    """The raced seeds of one contender on one task: their excess over the leader's, and True for each lost one."""

    excess: list[float]
    lost: list[bool]


def _runs(comparison: Comparison) -> dict[str, _TaskRuns]:
    plan = comparison.plan

    def excess(pair: tuple[TrialRecord, TrialRecord]) -> float:
        own, leaders = (trial_score(trial, plan).evaluation_score for trial in pair)
        return _excess(comparison, own - leaders)

    return {
        summary.name: _TaskRuns(
            # A contender that was dropped early has fewer seeds than the leader.
            excess=[excess(pair) for pair in summary.beside_leader],
            lost=[not trial_score(trial, plan).completed for trial, _ in summary.beside_leader],
        )
        for summary in comparison.contenders
        if summary.beside_leader
    }


def _aggregate_json(result: Aggregate | None) -> dict[str, Any]:
    if result is None:
        return {"interquartile_mean": None, "profiles": None}
    return {
        "interquartile_mean": {name: vars(interval) for name, interval in result.ratio.items()},
        "profiles": {"ratios": result.ratios} | {name: vars(profile) for name, profile in result.profiles.items()},
    }
