"""Compare on several tasks: one comparison on each, whose results a ``Suite`` holds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from thalweg.comparison.comparison import check_request, compare
from thalweg.comparison.contenders.parsing import ContenderLike, resolve, split_list
from thalweg.comparison.contenders.schedule import DEFAULT_SCHEDULE
from thalweg.comparison.finished import Comparison
from thalweg.comparison.presentation.progress_display import shows_progress
from thalweg.comparison.progress import Progress
from thalweg.comparison.results.environment import in_suite
from thalweg.comparison.suite_result import Suite
from thalweg.errors import ComparisonInterrupted, SettingError, TaskError, ThalwegError
from thalweg.tasks import SUITE, Task, TrainingFunction, as_task, load

MAX_TASKS = 100


@dataclass(frozen=True)
class TaskProgress:
    """The progress of a suite.

    Attributes:
        task: The name of the current task.
        number: The number of the current task, from 1.
        tasks: The number of all tasks.
        progress: The progress of the comparison on this task. Without a stage if the task has ended.
        result: The comparison, once it is finished. None before.
        error: The error of the task if it failed.
    """

    task: str
    number: int
    tasks: int
    progress: Progress
    result: Comparison | None = None
    error: ThalwegError | None = None


@shows_progress
def compare_suite(
    tasks: str | Iterable[str | Task | TrainingFunction | Callable[..., Any]] | None = None,
    contenders: str | Iterable[ContenderLike] | None = None,
    *,
    budget: str | None = None,
    seed: int = 0,
    schedule: str | None = None,
    store: str | Path | None = None,
    watch: Callable[[TaskProgress], None] | None = None,
    quiet: bool = False,
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
        watch: Called with the progress, and with the result or the error of each task. Defaults to a display on
            stderr, as in ``compare``.
        quiet: Show no progress.
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
    assert watch is not None, "shows_progress passes a function"
    tasks_by_name = _tasks_by_name(tasks)
    entrants = None if contenders is None else resolve(contenders)
    check_request(budget, seed, schedule or DEFAULT_SCHEDULE)
    comparisons: dict[str, Comparison] = {}
    failures: dict[str, ThalwegError] = {}
    for number, (name, task) in enumerate(tasks_by_name.items(), start=1):
        report = partial(TaskProgress, name, number, len(tasks_by_name))

        def watch_task(progress: Progress, report: Callable[..., TaskProgress] = report) -> None:
            watch(report(progress))

        try:
            with in_suite(name, list(tasks_by_name)):
                comparisons[name] = compare(
                    task,
                    entrants,
                    budget=budget,
                    seed=seed,
                    schedule=schedule,
                    store=None if store is None else store_path(store, name),
                    watch=watch_task,
                    **options,
                )
        except ComparisonInterrupted as interrupt:
            if interrupt.result is not None:
                comparisons[name] = interrupt.result
            pending = [task for task in tasks_by_name if task not in {**comparisons, **failures}]
            raise ComparisonInterrupted(Suite(comparisons, failures, pending) if comparisons else None) from interrupt
        except Exception as error:  # also a bug: it must not lose the other tasks
            text = f"{name}: a comparison must run to its end, got a bug: {type(error).__name__}: {error}"
            failures[name] = error if isinstance(error, ThalwegError) else TaskError(text)
            watch(report(Progress("", "", message=f"failed: {error}"), error=failures[name]))
        else:
            watch(report(Progress("", ""), result=comparisons[name]))
    if not comparisons:
        first = next(iter(failures.values()))
        raise TaskError(
            f"thalweg: at least one task of a suite must succeed, and all {len(failures)} failed, the first with: "
            f"{first}"
        ) from first
    return Suite(comparisons, failures)


def store_path(folder: str | Path, task: str) -> Path:
    """Return the file of a task's store in the folder of a suite.

    Args:
        folder: The folder of the suite.
        task: The name of the task.
    """
    return Path(folder) / folder_name(task) / "store.sqlite"


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
        if len(by_name) >= MAX_TASKS:
            raise SettingError(f"thalweg: a suite can have at most {MAX_TASKS} tasks, got more. Name fewer of them.")
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
