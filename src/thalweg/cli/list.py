"""`thalweg list`: what there is to compete."""

import click

from thalweg.cli.output import example, json_option, print_json, stdout_console


@click.command("list", epilog=example("thalweg list"))
@json_option
def list_(as_json: bool) -> None:
    """List the optimizers that `thalweg compare` knows by name."""
    from rich.table import Table

    from thalweg.comparison import CONTENDERS

    entries = list(CONTENDERS.values())
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
        )
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "rule", "state", "what it is"):
        table.add_column(column, overflow="fold")
    for one in entries:
        table.add_row(one.name, type(one.rule).__name__, f"{4 * one.state_numbers} B", one.about)
    console = stdout_console()
    console.print(table)
    console.print("\nstate: bytes kept for each float32 parameter. `thalweg explain NAME` says more.")
