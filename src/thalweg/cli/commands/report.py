"""The command ``thalweg report``: write the report again, from a store or from those of a suite alone."""

from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import click

from thalweg.cli.commands.suite import show_suite
from thalweg.cli.live import live_report
from thalweg.cli.output import echo, end_with, example, json_option, naming_option, print_json, stdout_console

if TYPE_CHECKING:
    from thalweg.report.live_sources import LiveSource


@click.command(
    short_help="Write the report of a finished comparison again.",
    epilog=example("thalweg report runs/linear-regression"),
)
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="File to write; for a suite, folder of its pages. [default: report.html in the folder of the store, or the "
    "folder of the suite]",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is no report of thalweg.")
@click.option(
    "--live", is_flag=True, help="Serve the report on this machine until Ctrl-C, and renew it as STORE grows."
)
@json_option
def report(store: Path, target: Path | None, overwrite: bool, live: bool, as_json: bool) -> None:
    """Write the report of the newest comparison in STORE, or that of a suite.

    STORE is a folder that `thalweg compare` made, or the file store.sqlite in it. Of the folder of a suite, the tables
    are printed too, as at the end of its run. No training is run.
    """
    from thalweg.comparison import Comparison, Store, open_suite
    from thalweg.comparison.suite import is_suite
    from thalweg.errors import StoreError

    if is_suite(store):
        if live:
            _serve(_suite_source(store))
            return
        suite = open_suite(store)
        show_suite(suite, target or store, as_json=as_json, overwrite=overwrite)
        return
    opened_store = Store(store, write=False)
    path = opened_store.path
    assert path is not None
    if live:
        _serve(_source(path))
        return
    record = opened_store.find()
    if record is None:
        raise StoreError(f"{path}: the store must hold a comparison, got none. Run `thalweg compare` first.")
    comparison = Comparison(opened_store, record)
    make = comparison.parts.make

    @naming_option("--to")
    def write() -> Path:
        return comparison.report(target or path.with_name("report.html"), overwrite=overwrite)

    page = make("the report", write, None)
    if as_json:
        print_json(comparison.to_json() | {"report": page and str(page)})
    else:
        console = stdout_console()  # it breaks lines between words: no value is cut in two
        console.print(make("the verdict", lambda: comparison.verdict.text, ""))
        for failure in make("the failed trainings", lambda: comparison.failures, []):
            console.print(failure.text)
        if page:
            echo(f"Report: {page}")
    end_with(comparison.parts)


def _source(path: Path) -> "LiveSource":
    from thalweg.report.live_sources import ComparisonSource

    return ComparisonSource(path, watches=True)


def _suite_source(folder: Path) -> "LiveSource":
    from thalweg.comparison import open_suite
    from thalweg.comparison.suite import store_path
    from thalweg.report.live_sources import SuiteSource

    suite = open_suite(folder)
    tasks = [*suite.comparisons, *suite.failures, *suite.pending]
    return SuiteSource({task: store_path(folder, task) for task in tasks}, watches=folder)


def _serve(source: "LiveSource") -> None:
    """Serve pages until Ctrl-C."""
    echo("Press Ctrl-C to end.", err=True)
    with suppress(KeyboardInterrupt), live_report(source, err=False):
        wait_for_interrupt()


def wait_for_interrupt() -> None:
    """Wait until Ctrl-C raises ``KeyboardInterrupt``."""
    Event().wait()
