"""Suite: the finished comparisons of several tasks, and the aggregate of their contenders."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from thalweg.comparison.finished import Comparison
from thalweg.comparison.presentation import suite_overview
from thalweg.comparison.results.aggregate import Aggregate, Runs, aggregate
from thalweg.comparison.results.terms import listed, worse
from thalweg.comparison.suite_standing import Standing, has_leader, has_ratios, leader_of, runs_of, standings_of
from thalweg.errors import ThalwegError
from thalweg.parts import Parts, as_plain_json
from thalweg.report_writer import load_report_writer

CAUTION = (
    "Intervals are over seeds, at the settings chosen for each task. They do not cover other tasks, on which another "
    "contender may lead, nor the settings of another search."
)


# How the nearest contender stands on a task, the strongest first.
_STATES = (
    "shown to be the best on",
    "within the margin of the best on",
    "not told apart from the best on",
    "worse than the best on",
    "absent on",
)
_BEST, _WITHIN, _OPEN, _WORSE, _ABSENT = _STATES
_UNSETTLED = "nothing is settled on"


class Suite:
    """Finished comparisons on several tasks, and their aggregate.

    Attributes:
        comparisons: The comparisons, finished or interrupted, by the name of the task.
        failures: The errors of the tasks that failed, by the name of the task.
        pending: The tasks without a result so far.
        notes: Facts about the stored comparisons that a reader should know, in sentences.
        parts: Makes the parts of the result, and knows those that could not be made.

    Example:
        >>> from thalweg.comparison import compare_suite
        >>> tasks = ["quadratic", "linear-regression"]
        >>> suite = compare_suite(tasks, ["gd", "adam"], budget="4trials", workers=1)
        >>> sorted(suite.matrix["linear-regression"])
        ['adam', 'gd']
    """

    def __init__(
        self,
        comparisons: Mapping[str, Comparison],
        failures: Mapping[str, ThalwegError],
        pending: Iterable[str] = (),
        notes: Iterable[str] = (),
    ) -> None:
        self.comparisons = dict(comparisons)
        self.failures = dict(failures)
        self.pending = list(pending)
        self.notes = list(notes)
        self.parts = Parts()

    __repr__ = suite_overview.text_of
    _repr_html_ = suite_overview.html_of

    @property
    def is_finished(self) -> bool:
        """True if every task has ended: its comparison is finished, or it failed."""
        return not self.pending and all(comparison.record.finished for comparison in self.comparisons.values())

    @cached_property
    def matrix(self) -> dict[str, dict[str, Standing]]:
        """The result of each contender on each task, by task and contender."""
        return {task: standings_of(comparison) for task, comparison in self.comparisons.items()}

    @cached_property
    def contenders(self) -> list[str]:
        """All contenders: those in the aggregate first, the nearest to the best of each task first."""
        names = dict.fromkeys(name for comparison in self.comparisons.values() for name in comparison.plan.schedules)
        ranked = list(self.aggregate.ratio) if self.aggregate else []
        return ranked + [name for name in names if name not in ranked]

    @cached_property
    def _aggregated_tasks(self) -> list[str]:
        """The tasks that the aggregate covers: those in which a difference is a share of something."""
        return [task for task, comparison in self.comparisons.items() if has_ratios(comparison)]

    @cached_property
    def aggregate(self) -> Aggregate | None:
        """The aggregate of the contenders that took part in every task. None if there are none."""
        runs_by_task = [runs_of(self.comparisons[task]) for task in self._aggregated_tasks]
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
        unraced: dict[str, list[str]] = {}
        for task, comparison in self.comparisons.items():
            names = listed([s.name for s in comparison.contenders if s.beside_leader and not s.raced])
            unraced.setdefault(names, []).append(task)
        sentences += [
            f"On {listed(tasks)}, {names} did not race. Trainings of the search, which look too good, compare them."
            for names, tasks in unraced.items()
            if names
        ]
        for name in self.contenders if self._aggregated_tasks else []:
            missed = [task for task in self._aggregated_tasks if name not in runs_of(self.comparisons[task])]
            if missed:
                sentences.append(f"{name} is not in the means and profiles: it did not take part in {listed(missed)}.")
        return sentences

    @property
    def cautions(self) -> list[str]:
        """Facts that a reader should know before trusting the result, in sentences."""
        verb = "has" if len(self.pending) == 1 else "have"
        waiting = [f"{listed(self.pending)} {verb} no result yet."] if self.pending else []
        failed = [
            f"{task}: {failure.note}"
            for task, comparison in self.comparisons.items()
            for failure in comparison.failures
        ]
        return [*waiting, *failed, *self.notes, *self.left_out, CAUTION]

    @property
    def headline(self) -> str:
        """The answer in a few words, no stronger than the matrix."""
        so_far = "" if self.is_finished else "So far: "
        if self.aggregate is None:
            return "No overall result." if self.is_finished else "No overall result yet."
        first, *rivals = self.aggregate.ratio
        if len(self.contenders) == 1:
            return f"{so_far}{first} was tuned on {_tasks(len(self.comparisons))}."
        settled = [task for task, comparison in self.comparisons.items() if _is_settled(comparison)]
        if not settled:
            return f"Best so far: {first}."
        tied = [{name for name, standing in self.matrix[task].items() if standing.tied} for task in settled]
        close = [name for name in rivals if all({first, name} <= names for names in tied)]
        if close:
            names = close[0] if len(close) == 1 else f"{len(close)} others"
            return f"{so_far}{first} or {names}: not told apart."
        if {_state_on(comparison, first) for comparison in self.comparisons.values()} == {_BEST}:
            count = len(self.comparisons)
            return f"{so_far}{first} is the best on {'1 task' if count == 1 else f'all {count} tasks'}."
        return f"{so_far}nearest to the best: {first}." if so_far else f"Nearest to the best: {first}."

    @property
    def how_sure(self) -> str:
        """The standing of the headline's contender on the tasks, counted, in one sentence."""
        start = "" if self.is_finished else "So far: "
        if self.aggregate is None:
            return f"{start}Nothing is settled over all tasks."
        if len(self.contenders) == 1:
            return f"{start}Tuned alone: there is no rival to compare with."
        first = next(iter(self.aggregate.ratio))
        counts = Counter(_state_on(comparison, first) for comparison in self.comparisons.values())
        standing = [f"{state} {counts[state]}" for state in _STATES if counts[state]]
        unsettled = f"{_UNSETTLED} {counts[_UNSETTLED]}" if counts[_UNSETTLED] else ""
        failed = f"{len(self.failures)} failed" if self.failures else ""
        waiting = f"{len(self.pending)} to come" if self.pending else ""
        total = len(self.comparisons) + len(self.failures) + len(self.pending)
        facts = [f"{first} is {listed(standing)}" if standing else "", unsettled, failed, waiting]
        counted = f"{'of' if total > 1 else 'on'} {_tasks(total)}, {'; '.join(filter(None, facts))}."
        return f"{start}{counted}" if start else counted[:1].upper() + counted[1:]

    @property
    def text(self) -> str:
        """The result of the suite, in sentences."""
        if self.aggregate is None:
            return "There is no mean over all tasks. Each task has its own verdict."
        if len(self.contenders) == 1:
            return f"{self.contenders[0]} was tuned on {_tasks(len(self.comparisons))}."
        wins = Counter(map(leader_of, filter(has_leader, self.comparisons.values()))).most_common()
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
            ratios = [self.matrix[task][name].ratio for task in self._aggregated_tasks]
            if all(ratio > 0 for ratio in ratios):  # not so for one that is not a number
                means[name] = geometric_mean(ratios) - 1
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
            "pending": self.pending,
            "matrix": make(
                "the table",
                lambda: {
                    task: {name: vars(standing) for name, standing in standings.items()}
                    for task, standings in self.matrix.items()
                },
                {},
            ),
            **make("the means", lambda: _aggregate_json(self.aggregate), {}),
            "headline": make("the headline", lambda: self.headline, ""),
            "how_sure": make("the certainty", lambda: self.how_sure, ""),
            "text": make("the overall result", lambda: self.text, ""),
            "cautions": make("the cautions", lambda: self.cautions, [CAUTION]),
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


def _is_settled(comparison: Comparison) -> bool:
    """Return True if contenders have raced, and one may be recommended."""
    return comparison.verdict.settled not in ("none", "unended", "unraced")


def _state_on(comparison: Comparison, name: str) -> str:
    """Return how a contender stands on a task, in words that the number of such tasks may follow."""
    verdict = comparison.verdict
    if name not in comparison.plan.schedules:
        return _ABSENT
    if not _is_settled(comparison):
        return _UNSETTLED
    if name not in verdict.tied:
        return _WORSE
    if comparison.softening is not None:
        return _OPEN
    if verdict.settled == "best":
        return _BEST
    return _WITHIN if verdict.settled == "within" else _OPEN


def _why_left_out(comparison: Comparison) -> str:
    if not has_leader(comparison):
        return "no training has ended"
    if comparison.plan.scale.domain == "real":
        return "its best value is no better than the first, so there is no gain to take a share of"
    return "its best value is 0, so there is no ratio to it"


def _aggregate_json(result: Aggregate | None) -> dict[str, Any]:
    if result is None:
        return {"interquartile_mean": None, "profiles": None}
    return {
        "interquartile_mean": {name: vars(interval) for name, interval in result.ratio.items()},
        "profiles": {"ratios": result.ratios} | {name: vars(profile) for name, profile in result.profiles.items()},
    }
