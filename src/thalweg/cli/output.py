"""Output of commands: JSON for programs, tables for people."""

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from thalweg.comparison.presentation.tables import Table

# Every command has this option, with the same text.
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result to stdout as JSON.")


def print_json(value: Any) -> None:
    """Print one JSON value to stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def stdout_console() -> "Console":
    """Return the console on which commands print tables.

    Names come from the user, so the console interprets no markup and no emoji. A pipe or file has no width, so the
    console folds no table there. If the reader closes the pipe, the process ends without an error.
    """
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0)

    return PipeConsole(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 200)


def print_table(console: "Console", table: "Table") -> None:
    """Print a table in the width of the console. What is longer than a line is left to the terminal: nothing is cut."""
    from rich.text import Text

    for line in table.lines(console.width):
        console.print(Text(line.text, style="bold" if line.is_bold else ""), soft_wrap=True)


def example(command_line: str) -> str:
    """Return the last lines of a command's help: an example, which the tests run."""
    return f"\b\nExample:\n  {command_line}"
