"""Suite: one comparison on each of several tasks, and the aggregate of its contenders over all tasks."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from thalweg.comparison.comparison import Comparison, check_request, compare
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.parsing import resolve, split_list
from thalweg.comparison.contenders.schedule import DEFAULT_SCHEDULE
from thalweg.comparison.progress import Progress
from thalweg.comparison.results.aggregate import Aggregate, Runs, aggregate
from thalweg.comparison.results.report_writer import load_report_writer
from thalweg.errors import SettingError, TaskError, ThalwegError
from thalweg.rules import Rule
from thalweg.tasks import SUITE, Task, TrainingFunction, as_task, load

TENFOLD = 9.0  # from this share on, a factor is easier to read than a percentage

CAUTION = (
    "Intervals are over seeds, at the settings chosen for each task. They do not cover other tasks, on which another "
    "contender may lead, nor the settings of another search."
)


@dataclass(frozen=True)
class TaskProgress:
    """The progress of a suite.

    Attributes:
        task: The name of the current task.
        number: The number of the current task, from 1.
        tasks: The number of all tasks.
        progress: The progress of the comparison on this task.
    """

    task: str
    number: int
    tasks: int
    progress: Progress


def compare_suite(
    tasks: str | Iterable[str | Task | TrainingFunction | Callable[..., Any]] | None = None,
    contenders: str | Iterable[str | Rule | Contender] | None = None,
    *,
    budget: str | None = None,
    seed: int = 0,
    schedule: str | None = None,
    store: str | Path | None = None,
    watch: Callable[[TaskProgress], None] = lambda progress: None,
    **options: Any,
) -> "Suite":
    """Run one comparison on each of several tasks, and aggregate the results of the contenders over all tasks.

    A task that cannot be trained, or not within the budget, does not stop the suite: its error is in
    ``Suite.failures``.

    Args:
        tasks: Tasks as in ``compare``, or names in a comma-separated list. Defaults to a few quick tasks with data:
            logistic-regression, breast-cancer, diabetes, digits and patches.
        contenders: Contenders as in ``compare``, the same for all tasks. Each is tuned anew on each task.
        budget: The budget of each task. Five tasks at ``"2m"`` take ten minutes.
        seed: The seed of all random numbers, as in ``compare``.
        schedule: The learning rate schedule, as in ``compare``.
        store: A folder in which each task has a folder with its own store. If the run is interrupted, the same call
            resumes it. Defaults to the memory.
        watch: Called with the progress, and with the error of a task that failed.
        **options: All other options of ``compare``, except ``target``.

    Returns:
        The finished comparisons and the errors of tasks that failed.

    Raises:
        TaskError: If a task cannot be loaded, or if all tasks fail.
        UnknownNameError: If no task, optimizer or schedule has a given name.
        KeywordError: If a contender has no setting of a given name.
        SettingError: If an option or a setting is out of its bounds, or two tasks have the same name.
        BudgetError: If the budget cannot be parsed.

    Example:
        >>> tasks = ["quadratic", "linear-regression"]
        >>> suite = compare_suite(tasks, ["gd", "adam"], budget="4trials", workers=1)
        >>> list(suite.comparisons)
        ['quadratic', 'linear-regression']
    """
    if options.get("target") is not None:
        raise SettingError("thalweg: a suite takes no target, because losses differ by task. Compare task by task.")
    tasks_by_name = _tasks_by_name(tasks)
    entrants = None if contenders is None else resolve(contenders)
    check_request(budget, seed, schedule or DEFAULT_SCHEDULE)
    comparisons: dict[str, Comparison] = {}
    failures: dict[str, ThalwegError] = {}
    for number, (name, task) in enumerate(tasks_by_name.items(), start=1):

        def watch_task(progress: Progress, name: str = name, number: int = number) -> None:
            watch(TaskProgress(name, number, len(tasks_by_name), progress))

        try:
            comparisons[name] = compare(
                task,
                entrants,
                budget=budget,
                seed=seed,
                schedule=schedule,
                store=None if store is None else Path(store) / folder_name(name) / "store.sqlite",
                watch=watch_task,
                **options,
            )
        except ThalwegError as error:
            failures[name] = error
            watch_task(Progress("", "", message=f"failed: {error}"))
    if not comparisons:
        first = next(iter(failures.values()))
        raise TaskError(
            f"thalweg: at least one task of a suite must succeed, and all {len(failures)} failed, the first with: "
            f"{first}"
        ) from first
    return Suite(comparisons, failures)


def folder_name(task: str) -> str:
    """Return the name of the folder for a task's store and report.

    Args:
        task: The name of the task.

    Example:
        >>> folder_name("path/to/mine.py:task")
        'mine-task'
    """
    head, _, tail = task.rpartition(".py:")
    name = f"{Path(head).name}-{tail}" if head else task
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in name)


def _tasks_by_name(tasks: Any) -> dict[str, Task | TrainingFunction]:
    """The tasks by the names under which the user gave them, or by their own."""
    if isinstance(tasks, str):
        tasks = split_list(tasks)
    elif isinstance(tasks, Task | TrainingFunction) or callable(tasks):
        tasks = [tasks]
    by_name: dict[str, Task | TrainingFunction] = {}
    folders: set[str] = set()
    for item in SUITE if tasks is None else tasks:
        task = load(item) if isinstance(item, str) else as_task(item)
        name = item if isinstance(item, str) else task.name
        if folder_name(name) in folders:
            raise SettingError(
                f"thalweg: each task of a suite must have a name of its own, got {name!r} twice. Remove one, "
                "or give a thalweg.Task another name=."
            )
        folders.add(folder_name(name))
        by_name[name] = task
    if not by_name:
        raise SettingError(
            "thalweg: a suite must have at least one task, got none. Pass ['digits', 'diabetes'], for example."
        )
    return by_name


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

    Example:
        >>> tasks = ["quadratic", "linear-regression"]
        >>> suite = compare_suite(tasks, ["gd", "adam"], budget="4trials", workers=1)
        >>> sorted(suite.matrix["linear-regression"])
        ['adam', 'gd']
    """

    def __init__(self, comparisons: Mapping[str, Comparison], failures: Mapping[str, ThalwegError]) -> None:
        self.comparisons = dict(comparisons)
        self.failures = dict(failures)

    @cached_property
    def matrix(self) -> dict[str, dict[str, Standing]]:
        """The result of each contender on each task, by task and contender."""
        return {task: _standings(comparison) for task, comparison in self.comparisons.items()}

    @cached_property
    def contenders(self) -> list[str]:
        """All contenders: those in the aggregate first, the nearest to the best of each task first."""
        names = dict.fromkeys(name for comparison in self.comparisons.values() for name in comparison.plan.draws)
        ranked = list(self.aggregate.ratio) if self.aggregate else []
        return ranked + [name for name in names if name not in ranked]

    @cached_property
    def _aggregated_tasks(self) -> list[str]:
        """The tasks that the aggregate covers: those in which a difference is a share of something."""
        return [task for task, comparison in self.comparisons.items() if math.isfinite(_excess(comparison, 0.0))]

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
            f"{task} is not in the means and profiles: its best value is no better than the first, so there is no gain "
            "to take a share of."
            for task in self.comparisons
            if task not in self._aggregated_tasks
        ]
        for name in self.contenders if self._aggregated_tasks else []:
            missed = [task for task in self._aggregated_tasks if name not in self.matrix[task]]
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
        wins = Counter(_leader(comparison) for comparison in self.comparisons.values()).most_common()
        best = f"Best mean: {', '.join(f'{name} on {_tasks(count)}' for name, count in wins)}."
        first, *following = self.aggregate.ratio
        if len(wins) == 1 and first == wins[0][0]:  # it is its own reference: its mean says nothing
            if not following:
                return best
            return f"{best} Next comes {following[0]}, {self._mean_in_words(following[0])}."
        return (
            f"Over {_tasks(len(self._aggregated_tasks))}, {first} stays nearest to the best of each task: it is "
            f"{self._mean_in_words(first)}. {best}"
        )

    def _mean_in_words(self, name: str) -> str:
        assert self.aggregate is not None
        ratio = self.aggregate.ratio[name]
        interval = f"95 % interval {worse(ratio.low - 1)} to {worse(ratio.high - 1)}"
        return f"{worse(ratio.mean - 1)} worse in the interquartile mean ({interval})"

    def to_json(self) -> dict[str, Any]:
        """Return the results as plain JSON. Numbers that are not finite become None."""
        return {
            "tasks": {task: comparison.to_json() for task, comparison in self.comparisons.items()},
            "failures": {task: str(error) for task, error in self.failures.items()},
            "matrix": {
                task: {name: _standing_json(standing) for name, standing in standings.items()}
                for task, standings in self.matrix.items()
            },
            **_aggregate_json(self.aggregate),
            "text": self.text,
            "cautions": [*self.left_out, CAUTION],
        }

    def report(self, folder: str | Path) -> Path:
        """Write the page of the suite, and the report of each task.

        Args:
            folder: The folder for `suite.html`. The report of a task lies in a folder of its own inside.

        Returns:
            The path of `suite.html`.

        Raises:
            StoreError: If a file cannot be written, or the installed package declares no report writer.
        """
        return load_report_writer("suite")(self, folder)


def worse(share: float) -> str:
    """Return the share by which a value is worse, as text.

    Args:
        share: The share of the best value.

    Example:
        >>> worse(0.031), worse(11.0)
        ('3.1 %', '12x')
    """
    if not math.isfinite(share):
        return "–"
    return f"{1 + share:.3g}x" if share >= TENFOLD else f"{round(100 * share, 1) + 0.0:.1f} %"  # never -0.0


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _leader(comparison: Comparison) -> str:
    return comparison.findings.race.remaining[0]


def _leader_mean(comparison: Comparison) -> float:
    return fmean(comparison.findings.race.scores[_leader(comparison)])


def _excess(comparison: Comparison, difference: float) -> float:
    plan = comparison.plan
    return plan.scale.excess(difference, _leader_mean(comparison), plan.judged_on)


def _standings(comparison: Comparison) -> dict[str, Standing]:
    return {
        summary.name: Standing(
            worse_by=summary.worse_by,
            lost=summary.lost,
            seeds=len(summary.seeds),
            best=summary.name == _leader(comparison),
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
    race = comparison.findings.race
    leader = race.scores[_leader(comparison)]
    return {
        name: _TaskRuns(
            # A contender that was dropped early has fewer seeds: the first of the leader's.
            excess=[_excess(comparison, score - best) for score, best in zip(scores, leader, strict=False)],
            lost=[not completed for completed in race.completed[name]],
        )
        for name, scores in race.scores.items()
    }


def _standing_json(standing: Standing) -> dict[str, Any]:
    return vars(standing) | {"worse_by": standing.worse_by if math.isfinite(standing.worse_by) else None}


def _aggregate_json(result: Aggregate | None) -> dict[str, Any]:
    if result is None:
        return {"interquartile_mean": None, "profiles": None}
    return {
        "interquartile_mean": {name: vars(interval) for name, interval in result.ratio.items()},
        "profiles": {"ratios": result.ratios} | {name: vars(profile) for name, profile in result.profiles.items()},
    }
