"""Stored suites: a suite that is opened from the stores of its tasks, without any training."""

from collections.abc import Sequence
from pathlib import Path

from thalweg.comparison.finished import Comparison
from thalweg.comparison.results.environment import suite_of
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.store import Store
from thalweg.comparison.results.terms import listed
from thalweg.comparison.suite import folder_name
from thalweg.comparison.suite_result import Suite
from thalweg.errors import StoreError, ThalwegError

_NOTHING = (
    "the store must hold a comparison, got none: its run failed or was interrupted before its first training. Run the "
    "same compare command again."
)


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
            name = _name_of(record, path.parent.name)
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
        folder: A folder, a file, or nothing that exists.
    """
    folder = Path(folder)
    return folder.is_dir() and not (folder / "store.sqlite").exists() and bool(_stores_in(folder))


def _stores_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/store.sqlite"))


def _name_of(record: ComparisonRecord, folder: str) -> str:
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
