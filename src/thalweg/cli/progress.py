"""The live display of a comparison, on stderr: a progress bar, the current training and the time left."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from thalweg.cli.output import stderr_console

if TYPE_CHECKING:
    from rich.console import Console

    from thalweg.comparison import Progress

_STAGE_LABELS = {
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
_LABEL_WIDTH = max(map(len, _STAGE_LABELS.values()))


@contextmanager
def progress_display() -> Iterator[Callable[..., None]]:
    """Yield a function ``show(progress, task="")`` that displays progress.

    On a terminal it moves a bar. Elsewhere it prints a line for each stage and contender. In a suite, ``task`` names
    the task and its number, for example ``"digits (2 of 5)"``.
    """
    console = stderr_console()
    if not console.is_terminal:
        yield _line_printer(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trainings"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        bar_id, current_task = bar.add_task("starting", total=None), ""

        def show(progress: "Progress", task: str = "") -> None:
            nonlocal current_task
            if task != current_task:
                current_task = task
                console.print(task, soft_wrap=True)  # the bar has no room for it
                bar.reset(bar_id, total=None)  # each task has its own times
            if progress.message:
                console.print(progress.message, soft_wrap=True)
                return
            text = f"{_STAGE_LABELS[progress.stage]:<{_LABEL_WIDTH}} {progress.contender:<10.10}"
            if math.isfinite(progress.best):
                text += f" best {progress.best:.4g}"
            bar.update(bar_id, description=f"{text:<37}", completed=int(progress.done), total=progress.total or None)

        yield show


def _line_printer(console: "Console") -> Callable[["Progress"], None]:
    printed: set[tuple[str, str, str]] = set()

    def show(progress: "Progress", task: str = "") -> None:
        prefix = f"{task}: " if task else ""
        if progress.message:
            console.print(f"{prefix}{progress.message}", soft_wrap=True)
            return
        key = (task, progress.stage, progress.contender)
        if key not in printed:
            printed.add(key)
            label = _STAGE_LABELS[progress.stage]
            done = f" ({progress.done:.0f} of {progress.total} trainings done)" if progress.total else ""
            console.print(f"{prefix}{label} {progress.contender}{done}", soft_wrap=True)

    return show
