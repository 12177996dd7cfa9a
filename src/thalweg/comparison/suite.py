"""Suite: one comparison on each of several tasks, and what contenders come to over all of them."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from thalweg.comparison.comparison import Comparison, checked, compare
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.parsing import resolve, split_list
from thalweg.comparison.executor import Progress
from thalweg.comparison.results.aggregate import Aggregate, Runs, aggregate
from thalweg.errors import SettingError, TaskError, ThalwegError
from thalweg.rules import Rule
from thalweg.tasks import SUITE, Task, TrainingFunction, as_task, load

TENFOLD = 9.0  # percents of more are hard to read

CAUTION = (
    "Intervals are over seeds, at the settings chosen for each task. They do not cover other tasks, on which another "
    "may lead, nor what another search would have chosen."
)


@dataclass(frozen=True)
class TaskProgress:
    """How far a suite is: at this task, number `number` of `tasks`, whose comparison is so far."""

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
    schedule: str = "linear",
    store: str | Path | None = None,
    watch: Callable[[TaskProgress], None] = lambda progress: None,
    **options: Any,
) -> "Suite":
    """Run one comparison on each of several tasks, and see what the contenders come to over all of them.

    tasks       as `compare` takes them, or names in a comma-separated list. None means a few quick ones with data:
                logistic-regression, breast-cancer, diabetes, digits and patches
    contenders  as in `compare`, the same for all tasks; each is tuned anew on each task
    budget      for each task: five tasks at `2m` take ten minutes
    store       folder in which each task has a sub-folder with a store of its own; the same call goes on where the last
                one ended. None keeps the results in memory
    watch       is told the progress, and the error of a task that failed

    Everything else is as in `compare`. A task that cannot be trained, or not within the
    budget, does not lose the others: its error is in `failures`. What is wrong with the call raises before anything is
    trained, as does a task that cannot be loaded; TaskError where every task failed.
    """
    if options.get("target") is not None:
        raise SettingError("thalweg: a suite takes no target, since losses differ by task. Compare task by task.")
    named = _named(tasks)
    entrants = None if contenders is None else resolve(contenders)
    checked(budget, seed, schedule)
    comparisons: dict[str, Comparison] = {}
    failures: dict[str, ThalwegError] = {}
    for number, (name, task) in enumerate(named.items(), start=1):

        def tell(progress: Progress, name: str = name, number: int = number) -> None:
            watch(TaskProgress(name, number, len(named), progress))

        try:
            comparisons[name] = compare(
                task,
                entrants,
                budget=budget,
                seed=seed,
                schedule=schedule,
                store=None if store is None else Path(store) / folder_name(name) / "store.sqlite",
                watch=tell,
                **options,
            )
        except ThalwegError as error:
            failures[name] = error
            tell(Progress("", "", said=f"failed: {error}"))
    if not comparisons:
        first = next(iter(failures.values()))
        raise TaskError(
            f"thalweg: at least one task of a suite must end, and all {len(failures)} failed, the first with: {first}"
        ) from first
    return Suite(comparisons, failures)


def folder_name(task: str) -> str:
    """A name for the folder of a task's runs: `digits`, `quadratic-condition-10`, `mine-task`."""
    head, _, tail = task.rpartition(".py:")
    name = f"{Path(head).name}-{tail}" if head else task
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in name)


def _named(tasks: Any) -> dict[str, Task | TrainingFunction]:
    """The tasks by the names they go under: what was typed, or the task's own."""
    if isinstance(tasks, str):
        tasks = split_list(tasks)
    elif isinstance(tasks, Task | TrainingFunction) or callable(tasks):
        tasks = [tasks]
    found: dict[str, Task | TrainingFunction] = {}
    folders: set[str] = set()
    for given in SUITE if tasks is None else tasks:
        task = load(given) if isinstance(given, str) else as_task(given)
        name = given if isinstance(given, str) else task.name
        if folder_name(name) in folders:
            raise SettingError(
                f"thalweg: each task of a suite must have a name of its own, got {name!r} twice. Leave one out, "
                "or give a thalweg.Task another name=."
            )
        folders.add(folder_name(name))
        found[name] = task
    if not found:
        raise SettingError("thalweg: a suite must have at least one task, got none. Pass ['digits', 'diabetes'], say.")
    return found


@dataclass(frozen=True)
class Standing:
    """How one contender stands on one task: its share above the best, and how many of its seeds were lost.

    `worse_by` is that of the page of the task; not a number where the best value is zero. `tied` was not shown to be
    worse than the best.
    """

    worse_by: float
    lost: int
    seeds: int
    best: bool
    tied: bool


class Suite:
    """Finished comparisons by task, the errors of tasks that failed, and what contenders come to over the tasks."""

    def __init__(self, comparisons: Mapping[str, Comparison], failures: Mapping[str, ThalwegError]) -> None:
        self.comparisons = dict(comparisons)
        self.failures = dict(failures)

    @cached_property
    def matrix(self) -> dict[str, dict[str, Standing]]:
        """By task and contender: who is best, by how much the others are worse, and who was lost."""
        return {task: _standings(found) for task, found in self.comparisons.items()}

    @cached_property
    def contenders(self) -> list[str]:
        """Who took part: those in the aggregate first, the nearest to the best first."""
        every = dict.fromkeys(name for found in self.comparisons.values() for name in found.plan.draws)
        ranked = list(self.aggregate.ratio) if self.aggregate else []
        return ranked + [name for name in every if name not in ranked]

    @cached_property
    def _counted(self) -> list[str]:
        """The tasks that the aggregate covers: not those where the best value is zero, of which nothing is a share."""
        means = {
            task: (found.plan.scale, fmean(found.findings.race.scores[_best(found)]))
            for task, found in self.comparisons.items()
        }
        return [task for task, (scale, mean) in means.items() if math.isfinite(scale.excess(0.0, mean))]

    @cached_property
    def aggregate(self) -> Aggregate | None:
        """What the contenders that took part in every task come to over all tasks; None where there are none."""
        runs = {task: _runs(self.comparisons[task]) for task in self._counted}
        everywhere = [name for name in next(iter(runs.values()), {}) if all(name in found for found in runs.values())]
        if not everywhere:
            return None
        return aggregate({name: _joined([found[name] for found in runs.values()]) for name in everywhere})

    @property
    def left_out(self) -> list[str]:
        """What the aggregate does not cover, and why, in sentences."""
        found = [
            f"{task} is not in the means and profiles: its best value is 0, and nothing is a share of that."
            for task in self.comparisons
            if task not in self._counted
        ]
        for name in self.contenders if self._counted else []:
            missed = [task for task in self._counted if name not in self.matrix[task]]
            if missed:
                found.append(
                    f"{name} is not in the means and profiles: it did not take part in {' and '.join(missed)}."
                )
        return found

    @property
    def text(self) -> str:
        """What the suite shows, in sentences."""
        if self.aggregate is None:
            return "No contender can be followed over all tasks; each task has its own verdict."
        if len(self.contenders) == 1:
            return f"{self.contenders[0]} was tuned on {_tasks(len(self.comparisons))}."
        wins = Counter(_best(found) for found in self.comparisons.values()).most_common()
        best = ", ".join(f"{name} on {_tasks(count)}" for name, count in wins)
        means = {
            name: f"{worse(one.mean - 1)} worse (95 % interval {worse(one.low - 1)} to {worse(one.high - 1)})"
            for name, one in self.aggregate.ratio.items()
        }
        first, *others = means
        if len(wins) == 1 and first == wins[0][0]:  # the reference itself: its mean says nothing
            nearest = f" Next comes {others[0]}, in the interquartile mean {means[others[0]]}." if others else ""
            return f"The best mean: {best}.{nearest}"
        return (
            f"Over {_tasks(len(self._counted))} {first} stays nearest to the best of each: its interquartile mean is "
            f"{means[first]}. The best mean: {best}."
        )

    def to_json(self) -> dict[str, Any]:
        """One plain object; numbers that are not finite become None."""
        found = self.aggregate
        return {
            "tasks": {task: comparison.to_json() for task, comparison in self.comparisons.items()},
            "failures": {task: str(error) for task, error in self.failures.items()},
            "matrix": {
                task: {
                    name: vars(one) | {"worse_by": one.worse_by if math.isfinite(one.worse_by) else None}
                    for name, one in row.items()
                }
                for task, row in self.matrix.items()
            },
            "interquartile_mean": None if found is None else {name: vars(one) for name, one in found.ratio.items()},
            "profiles": None
            if found is None
            else {"ratios": found.ratios} | {name: vars(one) for name, one in found.profiles.items()},
            "text": self.text,
            "cautions": [*self.left_out, CAUTION],
        }

    def report(self, folder: str | Path) -> Path:
        """Write `suite.html` and, in a sub-folder for each task, its `report.html`; return the path of the first."""
        from thalweg import report  # upwards: sugar for thalweg.report.write_suite

        return report.write_suite(self, folder)


def worse(share: float) -> str:
    """By how much something is worse, as it is read: `3.1 %`, and from tenfold on `12x`."""
    if not math.isfinite(share):
        return "–"
    return f"{1 + share:.3g}x" if share >= TENFOLD else f"{round(100 * share, 1) + 0.0:.1f} %"  # never -0.0


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _best(found: Comparison) -> str:
    return found.findings.race.kept[0]


def _standings(found: Comparison) -> dict[str, Standing]:
    return {
        one.name: Standing(
            worse_by=one.worse_by,
            lost=one.lost,
            seeds=len(one.seeds),
            best=one.name == _best(found),
            tied=one.name in found.verdict.tied,
        )
        for one in found.contenders
    }


def _runs(found: Comparison) -> dict[str, tuple[list[float], list[bool]]]:
    """The excess of each raced seed of each contender, paired with the best's, and whether it was lost."""
    race, scale = found.findings.race, found.plan.scale
    best = race.scores[_best(found)]
    middle = fmean(best)
    return {
        name: (
            # Who was dropped early has fewer seeds: the first of the best's.
            [scale.excess(score - beside, middle) for score, beside in zip(scores, best, strict=False)],
            [not completed for completed in race.completed[name]],
        )
        for name, scores in race.scores.items()
    }


def _joined(tasks: list[tuple[list[float], list[bool]]]) -> Runs:
    return Runs([excess for excess, _ in tasks], [lost for _, lost in tasks])
