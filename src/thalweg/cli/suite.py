"""The option ``thalweg compare --suite``: one comparison on each of several tasks, and the overall result."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.output import print_json, stdout_console

if TYPE_CHECKING:
    from thalweg.comparison import Suite, TaskProgress
    from thalweg.comparison.suite import Standing


def compare_suite(tasks: str | None, contenders: list[str] | None, out: Path, *, as_json: bool, **options: Any) -> None:
    """Run the suite and print its result. Exit with code 2 if a task failed, after the results of the other tasks."""
    from thalweg import comparison
    from thalweg.cli.progress import progress_display

    tasks_run: set[str] = set()
    # Redirect task output to stderr; stdout carries results.
    with progress_display() as show, contextlib.redirect_stdout(sys.stderr):

        def watch(event: "TaskProgress") -> None:
            tasks_run.add(event.task)
            show(event.progress, f"{event.task} ({event.number} of {event.tasks})")

        suite = comparison.compare_suite(tasks, contenders, store=out, watch=watch, **options)
    stored = [task for task in suite.comparisons if task not in tasks_run]
    if stored:
        click.echo(f"already finished: {', '.join(stored)}. Results are from {out}; nothing was run.", err=True)
    page = suite.report(out)
    if as_json:
        print_json(suite.to_json() | {"report": str(page)})
    else:
        print_suite(suite)
        click.echo(f"Report: {page}")
    if suite.failures:
        click.get_current_context().exit(2)


def print_suite(suite: "Suite") -> None:
    """Print the table of tasks and contenders, the means over all tasks, and the sentences of the result."""
    from rich.table import Table
    from rich.text import Text

    from thalweg.comparison.suite import CAUTION, worse

    console = stdout_console()
    console.print("Worse than the best contender of the task by (~: not shown to be worse)")
    table = Table(box=None, pad_edge=False)
    table.add_column("task", overflow="fold")
    for name in suite.contenders:
        table.add_column(Text(name), justify="right", overflow="fold")
    for task, standings in suite.matrix.items():
        table.add_row(Text(task), *(Text(_format_standing(standings.get(name))) for name in suite.contenders))
    console.print(table)
    if suite.aggregate is not None:
        console.print("\nInterquartile mean over tasks and seeds")
        table = Table(box=None, pad_edge=False)
        for column in ("contender", "worse by", "95 % interval"):
            table.add_column(column, justify="left" if column == "contender" else "right", no_wrap=True)
        for name, ratio in suite.aggregate.ratio.items():
            table.add_row(Text(name), worse(ratio.mean - 1), f"{worse(ratio.low - 1)} – {worse(ratio.high - 1)}")
        console.print(table)
    console.print()
    failures = [f"{task} failed: {error}" for task, error in suite.failures.items()]
    for sentence in (suite.text, *failures, *suite.left_out, CAUTION):
        console.print(sentence)


def _format_standing(standing: "Standing | None") -> str:
    if standing is None:
        return "–"
    if standing.lost == standing.seeds:
        return "lost"
    text = "best" if standing.best else f"{'~ ' if standing.tied else ''}{standing.worse_by_text}"
    return f"{text} ({standing.lost}/{standing.seeds} lost)" if standing.lost else text
