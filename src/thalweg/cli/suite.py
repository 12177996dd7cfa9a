"""The option ``thalweg compare --suite``: one comparison on each of several tasks, and the overall result."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.interrupts import sigterm_interrupts
from thalweg.cli.output import echo, end_with, print_json, print_table, stdout_console
from thalweg.errors import ComparisonInterrupted

if TYPE_CHECKING:
    from thalweg.comparison import Suite, TaskProgress
    from thalweg.comparison.suite_result import Standing


def compare_suite(tasks: str | None, contenders: list[str] | None, out: Path, *, as_json: bool, **options: Any) -> None:
    """Run the suite and print its result. Exit with code 2 if a task failed, after the results of the other tasks."""
    from thalweg import comparison
    from thalweg.comparison.presentation.progress_display import progress_display

    tasks_run: set[str] = set()
    # Redirect task output to stderr; stdout carries results.
    with progress_display() as show, contextlib.redirect_stdout(sys.stderr), sigterm_interrupts():

        def watch(event: "TaskProgress") -> None:
            tasks_run.add(event.task)
            show(event)

        interrupt = None
        try:
            suite = comparison.compare_suite(tasks, contenders, store=out, watch=watch, **options)
        except ComparisonInterrupted as error:
            if error.result is None:
                raise
            suite, interrupt = error.result, error
    stored = [task for task in suite.comparisons if task not in tasks_run]
    if stored:
        echo(f"already finished: {', '.join(stored)}. Results are from {out}; nothing was run.", err=True)
    page = suite.parts.make("the report", lambda: suite.report(out), None)
    if as_json:
        print_json(suite.to_json() | {"report": page and str(page)})
    else:
        suite.parts.make("the table", lambda: print_suite(suite), None)
        if page:
            echo(f"Report: {page}")
    if interrupt is not None:
        raise interrupt
    end_with(suite.parts)
    if suite.failures:
        click.get_current_context().exit(2)


def print_suite(suite: "Suite") -> None:
    """Print the table of tasks and contenders, the means over all tasks, and the sentences of the result."""
    from thalweg.comparison.presentation.tables import Column, Table
    from thalweg.comparison.results.terms import worse
    from thalweg.comparison.suite_result import CAUTION

    console = stdout_console()
    console.print("Worse than the best contender of the task by (~: not shown to be worse)")
    columns = [Column("task", list(suite.matrix), "left")]
    for name in suite.contenders:
        cells = [_format_standing(standings.get(name)) for standings in suite.matrix.values()]
        columns.append(Column(name, cells))
    print_table(console, Table(columns))
    if suite.aggregate is not None:
        ratios = suite.aggregate.ratio
        console.print("\nInterquartile mean over tasks and seeds")
        columns = [
            Column("contender", list(ratios), "left"),
            Column("worse by", [worse(ratio.mean - 1) for ratio in ratios.values()]),
            Column("95 % interval", [f"{worse(ratio.low - 1)} – {worse(ratio.high - 1)}" for ratio in ratios.values()]),
        ]
        print_table(console, Table(columns))
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
