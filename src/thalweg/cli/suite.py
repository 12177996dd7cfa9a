"""The option ``thalweg compare --suite``: one comparison on each of several tasks, and the overall result."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.cli.live import live_report
from thalweg.cli.output import echo, end_with, print_table, show_result, stdout_console
from thalweg.errors import ComparisonInterrupted
from thalweg.parts import Parts

if TYPE_CHECKING:
    from thalweg.comparison import Suite, TaskProgress
    from thalweg.comparison.suite_standing import Standing
    from thalweg.report.live_sources import SuiteSource


def compare_suite(
    tasks: str | None, contenders: list[str] | None, out: Path, *, as_json: bool, live: bool = False, **options: Any
) -> None:
    """Run the suite and print its result. Exit with code 2 if a task failed, after the results of the other tasks."""
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
    show_result(
        suite.parts,
        "report",
        lambda: suite.report(out),
        lambda: suite.parts.make("the table", lambda: print_suite(suite), None),
        suite.to_json,
        as_json=as_json,
    )
    if interrupt is not None:
        raise interrupt
    end_with(_all_parts(suite))
    if suite.failures:
        click.get_current_context().exit(2)


def _all_parts(suite: "Suite") -> Parts:
    """Return the parts of a suite and of its comparisons that are missing."""
    parts = Parts()
    parts.missing = list(suite.parts.missing)
    for task, comparison in suite.comparisons.items():
        parts.missing += [replace(part, name=f"{task}: {part.name}") for part in comparison.parts.missing]
    return parts


def _live_source(tasks: str | None, out: Path) -> "SuiteSource":
    """Return what the live pages of a suite show."""
    from thalweg.comparison import split_list
    from thalweg.comparison.suite import store_path
    from thalweg.report.live_sources import SuiteSource
    from thalweg.tasks import SUITE

    names = list(SUITE) if tasks is None else split_list(tasks)
    return SuiteSource({name: store_path(out, name) for name in names})


def print_suite(suite: "Suite") -> None:
    """Print the table of tasks and contenders, the means over all tasks, and the sentences of the result."""
    from thalweg.comparison.presentation.tables import Column, Table
    from thalweg.comparison.results.terms import worse, worse_interval

    console = stdout_console()
    console.print("Worse than the best contender of the task by (~: not shown to be worse)")
    columns = [Column("task", list(suite.matrix), "left")]
    for name in suite.contenders:
        cells = [_format_standing(standings.get(name)) for standings in suite.matrix.values()]
        columns.append(Column(name, cells))
    verdicts = [comparison.verdict.headline for comparison in suite.comparisons.values()]
    print_table(console, Table([*columns, Column("verdict", verdicts, "left", folds=True)]))
    if suite.aggregate is not None:
        ratios = suite.aggregate.ratio
        console.print("\nInterquartile mean over tasks and seeds")
        columns = [
            Column("contender", list(ratios), "left"),
            Column("worse by", [worse(ratio.mean - 1) for ratio in ratios.values()]),
            Column("95 % interval", [worse_interval(ratio.low - 1, ratio.high - 1) for ratio in ratios.values()]),
        ]
        print_table(console, Table(columns))
    console.print()
    failures = [f"{task} failed: {error}" for task, error in suite.failures.items()]
    for sentence in (suite.text, suite.how_sure, *failures, *suite.cautions):
        console.print(sentence)


def _format_standing(standing: "Standing | None") -> str:
    if standing is None:
        return "–"
    from thalweg.comparison.suite_standing import NOT_SEPARATED

    mark = "~ " if NOT_SEPARATED in standing.remarks else ""
    remarks = ", ".join(remark for remark in standing.remarks if remark != NOT_SEPARATED)
    return f"{mark}{standing.text}{f' ({remarks})' if remarks else ''}"
