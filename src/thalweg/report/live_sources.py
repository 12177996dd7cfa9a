"""Live sources: what the pages of a running comparison or suite show, read from the stores that it writes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.comparison import Comparison, Progress, Store, Suite, TaskProgress, folder_name
from thalweg.comparison.presentation.progress_display import progress_lines, progress_parts
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.errors import StoreError, ThalwegError, printable
from thalweg.report.page import LiveState, render
from thalweg.report.suite import render_suite

MAIN = ""  # the name of the first page
_LINE_WIDTH = 400


@dataclass(frozen=True)
class Snapshot:
    """The content of a page at one moment.

    Attributes:
        version: Another one has other numbers.
        render: Makes the page.
    """

    version: str
    render: Callable[[LiveState], str]


class LiveSource(ABC):
    """The pages of a run, by name, and what the run is doing.

    Attributes:
        name: The name of the run, for a page without numbers.
        noun: The kind of the run: ``comparison`` or ``suite``.
        is_ended: True once the run has ended.
    """

    def __init__(self, name: str, noun: str) -> None:
        self.name, self.noun = name, noun
        self.is_ended = False

    @abstractmethod
    def begin(self) -> None:
        """Note what is stored before the run begins."""

    @abstractmethod
    def update(self, event: Any) -> None:
        """Take over what the run is doing now.

        Args:
            event: Its progress, as ``watch`` gets it.
        """

    @property
    @abstractmethod
    def pages(self) -> list[str]:
        """The names of the pages, the first one first. A name is the folder of the page in the address."""

    @abstractmethod
    def snapshot(self, page: str) -> Snapshot | None:
        """Return what a page shows now; None if no training for it is stored yet, or a store cannot be read now."""

    @abstractmethod
    def activity(self) -> tuple[str, float | None]:
        """Return what the run is doing, and the share of its budget that is used; None if it is unknown."""

    @abstractmethod
    def close(self) -> None:
        """Close the stores, for good."""


class StoreReader:
    """Reads comparisons from a store that need not exist yet.

    Args:
        path: The file of the store.
        watches: True if a comparison that was finished before the run is shown, too.
    """

    def __init__(self, path: Path, *, watches: bool = False) -> None:
        self._path, self._watches = path, watches
        self._store: Store | None = None
        self._file: tuple[int, int] | None = None
        self._is_closed = False
        self._earlier: int | None = None
        self._finished: Comparison | None = None  # that was read last

    def begin(self) -> None:
        """Note the newest comparison if it is finished: it is not the one that runs."""
        with suppress(StoreError):
            record = None if self._watches else self._find(None)
            self._earlier = record.id if record is not None and record.finished is not None else None

    def read(self, key: str | None = None, *, is_running: bool) -> Comparison | None:
        """Return a comparison; None if no training of it is stored yet, or the store cannot be read now.

        Args:
            key: The key of the comparison. None selects the newest one that is not older than the run.
            is_running: True while it may be running.
        """
        with suppress(ThalwegError):
            record = self._find(key)
            if record is None or (key is None and is_running and self._is_earlier(record)):
                return None
            if record.finished is None:
                assert self._store is not None
                return Comparison(self._store, record, is_running=is_running)
            return self._read_finished(record)
        return None

    def _read_finished(self, record: ComparisonRecord) -> Comparison:
        """Return a finished comparison, which is read once: it changes no more."""
        known = self._finished
        if (
            known is None
            or known.store is not self._store
            or (known.record.id, known.record.finished)
            != (
                record.id,
                record.finished,
            )
        ):
            assert self._store is not None
            self._finished = Comparison(self._store, record)
        assert self._finished is not None
        return self._finished

    def _is_earlier(self, record: ComparisonRecord) -> bool:
        return record.finished is not None and record.id == self._earlier

    def _find(self, key: str | None) -> ComparisonRecord | None:
        store = self._open()
        return None if store is None else store.find(key)

    def _open(self) -> Store | None:
        """Return the store, opened once; None if there is no file. A file that took its place is opened anew.

        Raises:
            StoreError: If the file cannot be opened as a store.
        """
        try:
            status = self._path.stat()
        except OSError:
            return None
        file = (status.st_dev, status.st_ino)
        if file != self._file:
            self._close_store()
        if self._store is None and not self._is_closed:
            self._store = Store(self._path, write=False)
            self._file = file
        return self._store

    def close(self) -> None:
        """Close the store, and open it no more."""
        self._is_closed = True
        self._close_store()

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store, self._file, self._finished = None, None, None


class ComparisonSource(LiveSource):
    """The page of the newest comparison in a store.

    Args:
        path: The file of the store. It need not exist yet.
        watches: True if another process writes the store: the newest comparison is then shown as it is. False if this
            process begins a comparison: an earlier one, that was finished before, is not shown.
    """

    def __init__(self, path: str | Path, *, watches: bool = False) -> None:
        super().__init__(Path(path).parent.name or "comparison", "comparison")
        self._path, self._watches = Path(path), watches
        self._reader = StoreReader(self._path, watches=watches)
        self._progress = Progress("pilot", "")

    def begin(self) -> None:
        """Note the newest comparison if it is finished."""
        self._reader.begin()

    def update(self, event: Progress) -> None:
        """Take over what the comparison is doing now."""
        if not event.message:
            self._progress = event

    @property
    def pages(self) -> list[str]:
        """The only page."""
        return [MAIN]

    def snapshot(self, page: str) -> Snapshot | None:
        """Return what the page shows now."""
        return _snapshot_of(self._reader.read(is_running=not self.is_ended))

    def activity(self) -> tuple[str, float | None]:
        """Return what the comparison is doing, and the share of its budget that is used."""
        if self._watches:
            return f"This page follows {printable(str(self._path))}.", None
        return _text_of(self._progress), min(1.0, self._progress.share) or None

    def close(self) -> None:
        """Close the store."""
        self._reader.close()


class SuiteSource(LiveSource):
    """The page of a suite, and those of its tasks in folders of their own.

    Args:
        stores: The file of each task's store, in the order of the suite. They need not exist yet.
        watches: The folder of the suite if another process writes the stores: the newest comparison of each is then
            shown as it is. None if this process runs the suite.
    """

    def __init__(self, stores: Mapping[str, Path], *, watches: Path | None = None) -> None:
        super().__init__("suite", "suite")
        self._watched = watches
        self._readers = {task: StoreReader(path, watches=watches is not None) for task, path in stores.items()}
        self._tasks_by_page = {folder_name(task): task for task in stores}
        self._event: TaskProgress | None = None
        self._keys: dict[str, str] = {}  # of the comparisons that have ended, by task
        self._failures: dict[str, ThalwegError] = {}
        self._begun: set[str] = set() if watches is None else set(stores)

    def begin(self) -> None:
        """Note the newest comparison of each task if it is finished."""
        for reader in self._readers.values():
            reader.begin()

    def update(self, event: TaskProgress) -> None:
        """Take over what the suite is doing now, and which task has ended."""
        if event.result is not None:
            self._keys[event.task] = event.result.record.key
        elif event.error is not None:
            self._failures[event.task] = event.error
        elif not event.progress.message:
            self._begun.add(event.task)
            self._event = event

    @property
    def pages(self) -> list[str]:
        """The page of the suite, then those of the tasks."""
        return [MAIN, *self._tasks_by_page]

    def snapshot(self, page: str) -> Snapshot | None:
        """Return what a page shows now."""
        if page != MAIN:
            return _snapshot_of(self._read(self._tasks_by_page[page]))
        read = {task: self._read(task) for task in self._readers}
        comparisons = {task: comparison for task, comparison in read.items() if comparison is not None}
        if not comparisons:
            return None
        pending = [task for task in read if task not in comparisons and task not in self._failures]
        suite = Suite(comparisons, self._failures, pending)
        versions = [_version_of(comparison) if comparison is not None else "0" for comparison in read.values()]
        return Snapshot(
            ".".join([*versions, str(len(self._failures)), str(int(self.is_ended))]),
            lambda live: render_suite(suite, live=live),
        )

    def _read(self, task: str) -> Comparison | None:
        """Return the comparison on a task; None if it has not begun in this run, or failed."""
        if task in self._failures or not (task in self._keys or task in self._begun):
            return None
        return self._readers[task].read(self._keys.get(task), is_running=not self.is_ended)

    def activity(self) -> tuple[str, float | None]:
        """Return the task and what is done for it, and the share of the budgets of all tasks that is used."""
        event = self._event
        if self._watched is not None:
            return f"This page follows {printable(str(self._watched))}.", None
        if event is None:
            return _text_of(Progress("pilot", "")), None
        share = (event.number - 1 + min(1.0, event.progress.share)) / event.tasks
        return _text_of(event), share or None

    def close(self) -> None:
        """Close the stores."""
        for reader in self._readers.values():
            reader.close()


def _snapshot_of(comparison: Comparison | None) -> Snapshot | None:
    if comparison is None:
        return None
    return Snapshot(_version_of(comparison), lambda live: render(comparison, live=live))


def _version_of(comparison: Comparison) -> str:
    return f"{comparison.record.id}-{len(comparison.trainings)}-{int(comparison.record.finished is not None)}"


def _text_of(event: Progress | TaskProgress) -> str:
    """Return progress as one line, without its bar."""
    progress, task = progress_parts(event)
    text = " · ".join(progress_lines(progress, _LINE_WIDTH, task)).replace("━", "").replace("╌", "")
    return printable(text.strip())
