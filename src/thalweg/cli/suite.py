"""`thalweg compare --suite`: one comparison on each of several tasks, and what they come to together."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.output import print_json, stdout_console

if TYPE_CHECKING:
    from thalweg.comparison import Suite, TaskProgress
    from thalweg.comparison.suite import Standing


def compare_suite(tasks: str | None, contenders: list[str] | None, out: Path, *, as_json: bool, **asked: Any) -> None:
    """Run the suite and print it; ends with code 2 where a task failed, after what the others came to."""
    from thalweg import comparison
    from thalweg.cli.progress import shown

    heard: set[str] = set()
    with shown() as show, contextlib.redirect_stdout(sys.stderr):

        def watch(now: "TaskProgress") -> None:
            heard.add(now.task)
            show(now.progress, f"{now.task} ({now.number} of {now.tasks})")

        found = comparison.compare_suite(tasks, contenders, store=out, watch=watch, **asked)
    stored = [task for task in found.comparisons if task not in heard]
    if stored:
        click.echo(f"finished before: {', '.join(stored)}; shown from {out}, nothing was run", err=True)
    page = found.report(out)
    if as_json:
        print_json(found.to_json() | {"report": str(page)})
    else:
        print_suite(found)
        click.echo(f"Report: {page}")
    if found.failures:
        click.get_current_context().exit(2)


def print_suite(found: "Suite") -> None:
    """The matrix, the means over all tasks, and what they say."""
    from rich.table import Table
    from rich.text import Text

    from thalweg.comparison.suite import CAUTION, worse

    console = stdout_console()
    console.print("Worse than the best of the task by (~ not shown to be worse)")
    table = Table(box=None, pad_edge=False)
    table.add_column("task", overflow="fold")
    for name in found.contenders:
        table.add_column(Text(name), justify="right", overflow="fold")
    for task, row in found.matrix.items():
        table.add_row(Text(task), *(Text(_cell(row.get(name))) for name in found.contenders))
    console.print(table)
    if found.aggregate is not None:
        console.print("\nInterquartile mean over tasks and seeds")
        table = Table(box=None, pad_edge=False)
        for column in ("contender", "worse by", "95 % interval"):
            table.add_column(column, justify="left" if column == "contender" else "right", no_wrap=True)
        for name, one in found.aggregate.ratio.items():
            table.add_row(Text(name), worse(one.mean - 1), f"{worse(one.low - 1)} – {worse(one.high - 1)}")
        console.print(table)
    console.print()
    failed = [f"{task} failed: {error}" for task, error in found.failures.items()]
    for sentence in (found.text, *failed, *found.left_out, CAUTION):
        console.print(sentence)


def _cell(one: "Standing | None") -> str:
    from thalweg.comparison.suite import worse

    if one is None:
        return "–"
    if one.lost == one.seeds:
        return "lost"
    text = "best" if one.best else f"{'~ ' if one.tied else ''}{worse(one.worse_by)}"
    return f"{text} ({one.lost}/{one.seeds} lost)" if one.lost else text
