"""`thalweg list`: what there is to compete."""

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console


@click.command("list", epilog=example("thalweg list"))
@json_option
def list_(as_json: bool) -> None:
    """List the optimizers that `thalweg compare` knows by name."""
    from rich.table import Table

    from thalweg.comparison import CONTENDERS
    from thalweg.rules.named import WRAPPERS

    entries, wrappers = list(CONTENDERS.values()), sorted(WRAPPERS.items())
    if as_json:
        print_json(
            [
                {
                    "name": one.name,
                    "rule": type(one.rule).__name__,
                    "about": one.about,
                    "state_numbers": one.state_numbers,
                    "settings": one.rule.settings(),
                }
                for one in entries
            ]
            + [{"name": name, "rule": kind.__name__, "about": kind.__doc__, "wraps": True} for name, kind in wrappers]
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "rule", "state", "what it is"):
        table.add_column(column, overflow="fold")
    for one in entries:
        table.add_row(one.name, type(one.rule).__name__, f"{4 * one.state_numbers} B", one.about)
    console = stdout_console()
    console.print(table)
    around = Table(box=None, pad_edge=False)
    for column in ("wrapper", "rule", "what it does to another optimizer"):
        around.add_column(column, overflow="fold")
    for name, kind in wrappers:
        around.add_row(name, kind.__name__, kind.__doc__)
    console.print()
    console.print(around)
    console.print(
        "\nstate: bytes kept for each float32 parameter. Wrappers are written as cautious(adamw), and nest. "
        "`thalweg explain NAME` says more."
    )
