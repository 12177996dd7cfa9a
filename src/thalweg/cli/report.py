"""`thalweg report`: the page again, from a store alone."""

from pathlib import Path

import click

from thalweg.cli.output import example, json_option, print_json


@click.command(epilog=example("thalweg report runs/linear-regression"))
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Path(path_type=Path), help="The file. [default: report.html by the store]")
@json_option
def report(store: Path, target: Path | None, as_json: bool) -> None:
    """Write the report of the newest comparison in STORE, a folder that `thalweg compare` made or its store.sqlite."""
    from thalweg.comparison import Comparison, Store
    from thalweg.errors import StoreError

    path = store / "store.sqlite" if store.is_dir() else store
    if not path.is_file():
        raise StoreError(f"{path}: a store must exist, found none. Run `thalweg compare` first.")
    opened = Store(path, write=False)
    header = opened.find()
    if header is None:
        raise StoreError(f"{path}: a store must hold a comparison, got none. Run `thalweg compare` first.")
    found = Comparison(opened, header)
    page = found.report(target or path.with_name("report.html"))
    if as_json:
        print_json(found.to_json() | {"report": str(page)})
    else:
        click.echo(found.verdict.text)
        click.echo(f"Report: {page}")
