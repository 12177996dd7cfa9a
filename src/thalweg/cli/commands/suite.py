"""The option ``thalweg compare --suite``: one comparison on each of several tasks, and the overall result."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.live import live_report
from thalweg.cli.output import echo, end_with, print_table, show_result, stdout_console
from thalweg.errors import ComparisonInterrupted

if TYPE_CHECKING:
    from thalweg.comparison import Suite, TaskProgress
    from thalweg.report.live_sources import SuiteSource


def compare_suite(
    tasks: str | None, contenders: list[str] | None, out: Path, *, as_json: bool, live: bool = False, **options: Any
) -> None:
    """Run the suite and print its result. Exit with code 2 if a task failed or has no value."""
    from thalweg import comparison
    from thalweg.comparison.presentation.progress_display import progress_display

    tasks_run: set[str] = set()
    interrupt = None
    try:
        # Redirect task output to stderr; stdout carries results.
        with contextlib.ExitStack() as stack, contextlib.redirect_stdout(sys.stderr):
            served = stack.enter_context(live_report(_live_source(tasks, out))) if live else None
            show = stack.enter_context(progress_display())

            def watch(event: "TaskProgress") -> None:
                if event.result is None:
                    tasks_run.add(event.task)
                show(event)
                if served is not None:
                    served.update(event)

            suite = comparison.compare_suite(tasks, contenders, store=out, watch=watch, **options)
    except ComparisonInterrupted as error:
        if error.result is None:
            raise
        suite, interrupt = error.result, error
    stored = [task for task in suite.comparisons if task not in tasks_run]
    if stored:
        echo(f"already finished: {', '.join(stored)}. Results are from {out}; nothing was run.", err=True)
    show_suite(suite, out, as_json=as_json, interrupt=interrupt)


def show_suite(
    suite: "Suite",
    folder: Path,
    *,
    as_json: bool,
    overwrite: bool = False,
    interrupt: ComparisonInterrupted | None = None,
) -> None:
    """Print a suite and write its pages, as at the end of its run. Exit with code 2 if a task failed or has no value.

    Args:
        suite: The suite.
        folder: The folder of its page.
        as_json: True prints the result for programs.
        overwrite: True replaces files that are no reports of thalweg.
        interrupt: The interrupt that ended the run, which is raised at the end.
    """
    show_result(
        suite.parts,
        "report",
        lambda: suite.report(folder, overwrite=overwrite),
        lambda: suite.parts.make("the table", lambda: print_suite(suite), None),
        suite.to_json,
        as_json=as_json,
    )
    if interrupt is not None:
        raise interrupt
    end_with(suite.parts, {task: comparison.parts for task, comparison in suite.comparisons.items()})
    if suite.failures:
        click.get_current_context().exit(2)


def _live_source(tasks: str | None, out: Path) -> "SuiteSource":
    """Return what the live pages of a suite show."""
    from thalweg.comparison import split_list
    from thalweg.comparison.suite import store_path
    from thalweg.report.live_sources import SuiteSource
    from thalweg.tasks import SUITE

    names = list(SUITE) if tasks is None else split_list(tasks)
    return SuiteSource({name: store_path(out, name) for name in names})


def print_suite(suite: "Suite") -> None:
    """Print the table of tasks and contenders, the means over all tasks, the sentences and the lines to paste."""
    from thalweg.comparison.presentation.suite_overview import code_of, sentences_of, tables_of

    console = stdout_console()
    for title, table in tables_of(suite):
        console.print(title)
        print_table(console, table)
        console.print()
    for sentence in sentences_of(suite):
        console.print(sentence)
    if code := code_of(suite):
        echo(f"\n{code}\n")  # whole lines: they are to be pasted
