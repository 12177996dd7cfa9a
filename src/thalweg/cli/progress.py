"""The live display of a comparison, on stderr: a bar, what is trained now, and how long is left."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from thalweg.comparison import Progress

_WORDS = {
    "pilot": "measuring",
    "search": "searching",
    "retrain": "choosing",
    "judge": "judging",
    "final": "choosing",
    "race": "racing",
    "value": "measuring",
    "start": "untuned",
    "recommended": "untuned",
}


@contextmanager
def shown() -> Iterator[Callable[..., None]]:
    """A function that draws the progress it is told; off a terminal, a line for each stage and contender.

    Of a suite it is told the task, too: `show(progress, "digits (2 of 5)")`.
    """
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("trainings"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        row, at = bar.add_task("starting", total=None), ""

        def watch(progress: "Progress", task: str = "") -> None:
            nonlocal at
            if task != at:
                at = task
                console.print(task, soft_wrap=True)  # beside the bar there is no room for it
                bar.reset(row, total=None)  # its times are its own
            if progress.message:
                console.print(progress.message, soft_wrap=True)
                return
            text = f"{_WORDS[progress.stage]:<9} {progress.contender:<10.10}"
            if math.isfinite(progress.best):
                text += f" best {progress.best:.4g}"
            bar.update(row, description=f"{text:<36}", completed=int(progress.done), total=progress.total or None)

        yield watch


def _lines(console: Console) -> Callable[["Progress"], None]:
    told: set[tuple[str, str, str]] = set()

    def watch(progress: "Progress", task: str = "") -> None:
        if progress.message:
            console.print(_said(progress.message, task), soft_wrap=True)
            return
        now = (task, progress.stage, progress.contender)
        if now not in told:
            told.add(now)
            done = f" ({progress.done:.0f} of {progress.total} trainings done)" if progress.total else ""
            console.print(_said(f"{_WORDS[progress.stage]} {progress.contender}{done}", task), soft_wrap=True)

    return watch


def _said(text: str, task: str) -> str:
    return f"{task}: {text}" if task else text
