"""Compare on several tasks: one comparison on each, whose results a ``Suite`` holds, and open it again from stores."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from thalweg.comparison.results.environment import in_suite, suite_of
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.store import Store
from thalweg.comparison.results.terms import listed
from thalweg.comparison.suite_result import Suite
from thalweg.errors import ComparisonInterrupted, SettingError, StoreError, TaskError, ThalwegError, nearest
from thalweg.tasks import SUITE, Task, TrainingFunction, as_task, load
from thalweg.tasks.tuning import tunables_of_task
from thalweg.tasks.tuning.tunable import Tunable, TunableValue, fix

MAX_TASKS = 100
_NOTHING = (
    "the store must hold a comparison, got none: its run failed or was interrupted before its first training. Run the "
    "same compare command again."
)


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
    fixed: Mapping[str, TunableValue] | None = None,
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
        fixed: Values of arguments of the tasks, as in ``compare``: of all tasks that declare the argument
            (``"batch_size": 64``), or of one task (``"digits:batch_size": 64``), which decides for this task.
        store: A folder in which each task has a folder with its own store. If the run is interrupted, the same call
            resumes it. Defaults to the memory.
        watch: Called with the progress, and with the result or the error of each task. Defaults to a display on
            stderr, as in ``compare``.
        quiet: Show no progress.
        **options: All other options of ``compare``, except ``target``; ``start`` is for all tasks.

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
    fixed_by_task = _fixed_by_task(tasks_by_name, fixed or {})
    comparisons: dict[str, Comparison] = {}
    failures: dict[str, ThalwegError] = {}
    try:
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
                        fixed=fixed_by_task[name],
                        store=None if store is None else store_path(store, name),
                        watch=watch_task,
                        **options,
                    )
            except Exception as error:  # also a bug: it must not lose the other tasks
                text = f"{name}: a comparison must run to its end, got a bug: {type(error).__name__}: {error}"
                failures[name] = error if isinstance(error, ThalwegError) else TaskError(text)
                watch(report(Progress("", "", message=f"failed: {error}"), error=failures[name]))
            else:
                watch(report(Progress("", ""), result=comparisons[name]))
    except KeyboardInterrupt as interrupt:
        so_far = interrupt.result if isinstance(interrupt, ComparisonInterrupted) else None
        if so_far is not None:
            comparisons[name] = so_far
        pending = [task for task in tasks_by_name if task not in {**comparisons, **failures}]
        result = Suite(comparisons, failures, pending) if comparisons else None
        raise ComparisonInterrupted(result, is_stored=store is not None) from interrupt
    if not comparisons:
        first = next(iter(failures.values()))
        raise TaskError(
            f"thalweg: at least one task of a suite must succeed, and all {len(failures)} failed, the first with: "
            f"{first}"
        ) from first
    return Suite(comparisons, failures)


def open_suite(folder: str | Path) -> Suite:
    """Open the suite of a folder: the newest comparison in the store of each task. Nothing is trained or written.

    Args:
        folder: A folder that ``compare_suite`` wrote, or any folder of folders that hold a store each.

    Returns:
        The suite, as the run that wrote it ended. A task without a store is pending. The failures are stores that
        cannot be read, or hold no training: an error of a task is in no store.

    Raises:
        StoreError: If no task has a store with a training.

    Example:
        >>> import tempfile
        >>> from thalweg.comparison import compare_suite
        >>> folder = tempfile.mkdtemp()
        >>> suite = compare_suite(["quadratic"], ["gd", "adam"], budget="4trials", workers=1, store=folder)
        >>> open_suite(folder).headline == suite.headline
        True
    """
    folder = Path(folder)
    if not is_suite(folder):
        raise StoreError(f"{folder}: the folder of a suite must hold a folder with a store for each task, got none.")
    stores: dict[str, Store] = {}
    records: dict[str, ComparisonRecord] = {}
    errors: dict[str, StoreError] = {}  # by the folder of a task
    for path in _stores_in(folder):
        try:
            store = Store(path, write=False)
            record = store.find()
        except StoreError as error:
            errors[path.parent.name] = error
            continue
        if record is None:
            errors[path.parent.name] = StoreError(f"{path}: {_NOTHING}")
        else:
            name = _task_name(record, path.parent.name)
            stores[name], records[name] = store, record
    tasks = _in_order(records)
    names = {folder_name(task): task for task in tasks}
    failures: dict[str, ThalwegError] = {names.get(name, name): error for name, error in errors.items()}
    comparisons: dict[str, Comparison] = {}
    for name in filter(records.__contains__, tasks):
        try:
            comparisons[name] = Comparison(stores[name], records[name])
        except StoreError as error:
            failures[name] = error
    if not comparisons:
        first = next(iter(failures.values()))
        raise StoreError(f"{folder}: a task of the suite must have a stored training, and none has. {first}")
    pending = [name for name in tasks if name not in comparisons and name not in failures]
    return Suite(comparisons, failures, pending, notes=_differences(records))


def is_suite(folder: str | Path) -> bool:
    """Return True if a folder has no store of its own, but folders with stores.

    Args:
        folder: A folder, a file, or nothing that exists or can be read.
    """
    folder = Path(folder)
    try:
        return folder.is_dir() and not (folder / "store.sqlite").exists() and bool(_stores_in(folder))
    except OSError:  # a name that is too long, or a folder that may not be read: opening it says so
        return False


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


def _stores_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/store.sqlite"))


def _task_name(record: ComparisonRecord, folder: str) -> str:
    """Return the name of a task in its suite; without a suite its own; the name of its folder if neither fits that."""
    names = (suite_of(record.environment)[0], record.workload.name)
    return next((name for name in names if name and folder_name(name) == folder), folder)


def _in_order(records: dict[str, ComparisonRecord]) -> list[str]:
    """Return the tasks in the order of the newest run, those that it does not have in the order of their runs."""
    by_time = sorted(records, key=lambda name: records[name].created)
    tasks = suite_of(records[by_time[-1]].environment)[1] if by_time else ()
    return list(dict.fromkeys([*tasks, *by_time]))


def _differences(records: dict[str, ComparisonRecord]) -> Sequence[str]:
    """Return a sentence if the stored comparisons are not of one request, as after a run with another budget."""
    requests: dict[tuple[object, int], list[str]] = {}
    for name, record in records.items():
        requests.setdefault((record.plan.budget, record.plan.seed), []).append(name)
    if len(requests) < 2:
        return ()
    groups = sorted(requests.values(), key=len)
    names = listed([name for group in groups[:-1] for name in group])
    return (f"The tasks were not compared alike: the newest comparison on {names} has another budget or seed.",)


def _fixed_by_task(
    tasks: Mapping[str, Task | TrainingFunction], fixed: Mapping[str, TunableValue]
) -> dict[str, dict[str, TunableValue]]:
    """Return the values that are fixed for each task, those of the task alone before those of all.

    Raises:
        SettingError: If no task has a name, no task declares an argument, or a task does not allow a value.
    """
    declared = {name: _declared_by(task) if fixed else {} for name, task in tasks.items()}
    for_all = {key: value for key, value in fixed.items() if ":" not in key}
    for argument in for_all:
        if not any(argument in tunables for tunables in declared.values()):
            known = dict.fromkeys(name for tunables in declared.values() for name in tunables)
            got = f"they tune {', '.join(known)}" if known else "they tune none"
            raise SettingError(f"thalweg: {argument!r} must be an argument that a task of the suite tunes, but {got}.")
    values: dict[str, dict[str, TunableValue]] = {
        name: {argument: value for argument, value in for_all.items() if argument in tunables}
        for name, tunables in declared.items()
    }
    for key, value in fixed.items():
        task, colon, argument = key.rpartition(":")
        if colon and task not in tasks:
            raise SettingError(
                f"thalweg: {key!r} must begin with the name of a task of the suite. {nearest(task, tasks)}"
            )
        if colon:
            values[task][argument] = value
    for name, of_task in values.items():
        fix(declared[name], of_task, name)  # a wrong value ends the suite before anything is trained
    return values


def _declared_by(task: Task | TrainingFunction) -> dict[str, Tunable]:
    """Return the arguments that a task tunes; none of a task that is at fault, whose comparison says so."""
    try:
        return tunables_of_task(task)
    except ThalwegError:
        return {}
