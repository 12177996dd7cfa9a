"""`thalweg tasks`: what there is to train."""

import inspect

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console


@click.command(epilog=example("thalweg tasks"))
@json_option
def tasks(as_json: bool) -> None:
    """List the built-in tasks. A task of your own is path/to/file.py:name."""
    from rich.table import Table

    from thalweg.tasks import BUILT_IN

    knobs = {
        name: {key: found.default for key, found in inspect.signature(factory).parameters.items()}
        for name, factory in BUILT_IN.items()
    }
    about = {name: inspect.getdoc(factory) or "" for name, factory in BUILT_IN.items()}
    if as_json:
        print_json([{"name": name, "about": about[name], "settings": knobs[name]} for name in BUILT_IN])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("task", "what it is", "settings"):
        table.add_column(column, overflow="fold")
    for name in BUILT_IN:
        table.add_row(name, about[name], ",".join(f"{key}={value:g}" for key, value in knobs[name].items()))
    stdout_console().print(table)
