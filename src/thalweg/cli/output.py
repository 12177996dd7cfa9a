"""What commands print: JSON for programs, tables for people."""

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

# Every command takes it, in the same words.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout instead.")


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def stdout_console() -> "Console":
    """Where commands print tables: names are the user's, so no markup and no emoji is meant in them.

    Off a terminal nothing limits the width, so nothing is folded for it; a reader who has had enough ends us in peace.
    """
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0)

    return Quiet(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 200)


def example(line: str) -> str:
    """The end of a command's help: an example, which the tests run."""
    return f"\b\nExample:\n  {line}"
