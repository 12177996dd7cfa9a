"""The command ``thalweg report``: write the report again, from a store alone."""

from contextlib import suppress
from pathlib import Path
from threading import Event

import click

from thalweg.cli.live import live_report
from thalweg.cli.output import echo, end_with, example, json_option, naming_option, print_json, stdout_console


@click.command(
    short_help="Write the report of a finished comparison again.",
    epilog=example("thalweg report runs/linear-regression"),
)
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="File to write. [default: report.html in the folder of the store]",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is no report of thalweg.")
@click.option(
    "--live", is_flag=True, help="Serve the report on this machine until Ctrl-C, and renew it as STORE grows."
)
@json_option
def report(store: Path, target: Path | None, overwrite: bool, live: bool, as_json: bool) -> None:
    """Write the report of the newest comparison in STORE.

    STORE is a folder that `thalweg compare` made, or the file store.sqlite in it. No training is run.
    """
    from thalweg.comparison import Comparison, Store
    from thalweg.errors import StoreError

    opened_store = Store(store, write=False)
    path = opened_store.path
    assert path is not None
    if live:
        _serve(path)
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


def _serve(path: Path) -> None:
    """Serve the page of a store until Ctrl-C."""
    from thalweg.report.live_sources import ComparisonSource

    echo("Press Ctrl-C to end.", err=True)
    with suppress(KeyboardInterrupt), live_report(ComparisonSource(path, watches=True), err=False):
        wait_for_interrupt()


def wait_for_interrupt() -> None:
    """Wait until Ctrl-C raises ``KeyboardInterrupt``."""
    Event().wait()
