"""The progress of a comparison for people: a live display on a terminal or in a notebook, a few lines elsewhere.

The display goes to stderr, because stdout carries results. Nothing is cut: what does not fit in a line takes another.
"""

import functools
import html
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from thalweg.comparison.progress import Progress
from thalweg.errors import ComparisonInterrupted, printable

Show = Callable[[Any], None]  # of a Progress, or of the TaskProgress of a suite
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

STAGE_LABELS = {
    "pilot": "measuring",
    "search": "searching",
    "retrain": "choosing",
    "judge": "evaluating",
    "final": "choosing",
    "race": "racing",
    "value": "measuring",
    "start": "untuned",
    "recommended": "untuned",
}
SECONDS_BETWEEN_LINES = 60.0  # where there is no terminal: a log stays short
SECONDS_BETWEEN_UPDATES = 0.5  # of a notebook
REFRESHES_PER_S = 4
_GAP = "  "
_MIN_BAR, _MAX_BAR = 10, 40
_MIN_SHARE = 0.02  # before that, the time left would be a guess


def shows_progress(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a function with the keywords ``watch`` and ``quiet``, so that it shows its progress by default.

    Without a ``watch`` of the user and without ``quiet=True`` the function gets a ``watch`` that displays progress. A
    Ctrl-C that the function does not answer, as before its first training or after another one, becomes
    ComparisonInterrupted.
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        watch: Any = keywords.pop("watch", None)
        try:
            with watching(watch, quiet=bool(keywords.get("quiet"))) as show:
                keywords["watch"] = show
                return function(*args, **keywords)
        except ComparisonInterrupted:
            raise
        except KeyboardInterrupt as interrupt:
            raise ComparisonInterrupted(is_stored=keywords.get("store") is not None) from interrupt

    return call


@contextmanager
def watching(watch: Show | None = None, *, quiet: bool = False) -> Iterator[Show]:
    """Yield the function that gets the progress: that of the user, one that ignores it, or a display.

    Args:
        watch: The function of the user; None for none.
        quiet: True to show nothing.
    """
    if watch is not None or quiet:
        yield watch or (lambda event: None)
        return
    with progress_display() as show:
        yield show


def progress_parts(event: Any) -> tuple[Progress, str]:
    """Return the progress of a comparison, and the words for the task of a suite: ``digits (2 of 5)``.

    A terminal would obey control characters in names and messages, so they are escaped.
    """
    progress: Progress = event if isinstance(event, Progress) else event.progress
    contender, message, leader = map(printable, (progress.contender, progress.message, progress.leader))
    task = "" if isinstance(event, Progress) else f"{event.task} ({event.number} of {event.tasks})"
    return replace(progress, contender=contender, message=message, leader=leader), printable(task)


def _shown_by(display: Callable[[Progress, str], None]) -> Show:
    """Return the function that displays events; the end of a suite's task says nothing new."""

    def show(event: Any) -> None:
        progress, task = progress_parts(event)
        if progress.stage or progress.message:
            display(progress, task)

    return show


@contextmanager
def progress_display() -> Iterator[Show]:
    """Yield a function that displays progress on stderr, or in the cell of a notebook.

    On a terminal a few lines stay at its end until the comparison has ended. Elsewhere a line is printed when a stage
    begins, and then at most once a minute.
    """
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    notebook = _notebook_display()
    if notebook is not None:
        output = NotebookDisplay(notebook)
        yield _shown_by(output)
        return
    if not console.is_terminal:
        printer = LinePrinter(functools.partial(console.print, soft_wrap=True))
        yield _shown_by(printer)
        return
    live = LiveDisplay(console)
    # Text that a training prints to a terminal stands above the display. A stdout that is a file is left alone.
    with Live(
        get_renderable=live.render,
        console=console,
        refresh_per_second=REFRESHES_PER_S,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ):
        yield _shown_by(live)


class LiveDisplay:
    """The lines at the end of a terminal; messages stay above them.

    Args:
        console: The terminal.
        clock: Returns seconds; the time goes on between two reports.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._progress, self._task, self._updated_s = Progress("pilot", ""), "", clock()

    def __call__(self, progress: Progress, task: str = "") -> None:
        """Show progress, or print its message above."""
        if progress.message:
            self._console.print(f"{task}: {progress.message}" if task else progress.message, soft_wrap=True)
            return
        self._progress, self._task, self._updated_s = progress, task, self._clock()

    def render(self) -> Text:
        """Return the lines as they are now."""
        lines = progress_lines(self._progress, self._console.width, self._task, since_s=self._clock() - self._updated_s)
        return Text("\n".join(lines), overflow="fold")


class LinePrinter:
    """Prints a line when a stage begins, and then at most once a minute.

    Args:
        write: Called with each line.
        clock: Returns seconds.
    """

    def __init__(self, write: Callable[[str], Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._begun: set[tuple[str, str]] = set()
        self._last_s = -math.inf

    def __call__(self, progress: Progress, task: str = "") -> None:
        """Print progress if a stage has begun or a minute has passed; messages in any case."""
        prefix = f"{task}: " if task else ""
        if progress.message:
            self._write(f"{prefix}{progress.message}")
            return
        stage = (task, STAGE_LABELS.get(progress.stage, progress.stage))
        if stage in self._begun and self._clock() - self._last_s < SECONDS_BETWEEN_LINES:
            return
        self._begun.add(stage)
        self._last_s = self._clock()
        activity, *facts = _facts(progress)
        self._write(f"{prefix}{activity}" + (f" ({'; '.join(facts)})" if facts else ""))


class NotebookDisplay:
    """The output of a notebook's cell, which is replaced twice a second at most; messages stay.

    Args:
        display: ``IPython.display.display``.
        clock: Returns seconds.
    """

    def __init__(self, display: Callable[..., Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._display, self._clock = display, clock
        self._messages: list[str] = []
        self._handle: Any = None
        self._last_s = -math.inf

    def __call__(self, progress: Progress, task: str = "") -> None:
        """Show progress and all messages."""
        if progress.message:
            self._messages.append(f"{task}: {progress.message}" if task else progress.message)
        elif self._clock() - self._last_s < SECONDS_BETWEEN_UPDATES:
            return
        self._last_s = self._clock()
        lines = [*self._messages, *([] if progress.message else [f"{task} {' · '.join(_facts(progress))}".strip()])]
        output = _Html("<br>".join(map(html.escape, lines)))
        if self._handle is None:
            self._handle = self._display(output, display_id=True)
        else:
            self._handle.update(output)


class _Html:
    """A text that a notebook shows as HTML."""

    def __init__(self, text: str) -> None:
        self._text = text

    def _repr_html_(self) -> str:
        return self._text


def _notebook_display() -> Callable[..., Any] | None:
    """Return the function that shows outputs of a notebook's cell; None outside of a notebook."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    from importlib import import_module

    display: Callable[..., Any] = import_module("IPython.display").display
    return display


def progress_lines(progress: Progress, width: int, task: str = "", *, since_s: float = 0.0) -> list[str]:
    """Return progress as lines of text. A line is longer than ``width`` only if one of its facts is.

    Args:
        progress: The progress.
        width: The characters in a line.
        task: The task of a suite and its number.
        since_s: Seconds since this progress was reported.
    """
    lines: list[str] = []
    for fact in [*([task] if task else []), *_facts(progress, since_s)]:
        if lines and cell_len(f"{lines[-1]}{_GAP}{fact}") <= width:
            lines[-1] += f"{_GAP}{fact}"
        else:
            lines.append(fact)
    share = _share(progress)
    room = width - cell_len(lines[-1]) - len(_GAP)
    if share is not None and room >= _MIN_BAR:
        lines[-1] += _GAP + _bar(share, min(room, _MAX_BAR))
    return lines


def _facts(progress: Progress, since_s: float = 0.0) -> list[str]:
    """Return the activity, the trainings done, the times and the best loss so far, each as a phrase."""
    label = STAGE_LABELS.get(progress.stage, progress.stage)
    facts = [f"{label} {progress.contender}".strip()]
    if progress.total:
        facts.append(f"{int(progress.done):,} of {progress.total:,} trainings done")
    elif progress.done:
        facts.append(f"{int(progress.done):,} trainings done")
    elapsed_s = progress.elapsed_s + since_s
    left_s = _left_s(progress, since_s)
    if left_s is not None:
        facts.append(f"{_duration(left_s)} left")
    elif progress.elapsed_s:
        facts.append(f"{_duration(elapsed_s)} so far")
    if math.isfinite(progress.best):
        facts.append(f"best so far: {progress.leader} {progress.best:.4g}".replace(":  ", ": "))
    return facts


def _share(progress: Progress) -> float | None:
    """Return the share of the work that is done; None if it is unknown."""
    if progress.share:
        return min(1.0, progress.share)
    return min(1.0, progress.done / progress.total) if progress.total else None


def _left_s(progress: Progress, since_s: float) -> float | None:
    """Return the seconds left: those of the budget, or an estimate from the share that is done."""
    if progress.left_s is not None:
        return max(0.0, progress.left_s - since_s)
    share = _share(progress)
    if share is None or share < _MIN_SHARE or not progress.elapsed_s:
        return None
    return max(0.0, progress.elapsed_s * (1 - share) / share - since_s)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar(share: float, width: int) -> str:
    full = round(share * width)
    return "━" * full + "╌" * (width - full)
