"""What commands print: JSON for programs, tables for people."""

import json
from typing import Any

import click

# Every command takes it, in the same words.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout instead.")


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def example(line: str) -> str:
    """The end of a command's help: an example, which the tests run."""
    return f"\b\nExample:\n  {line}"
