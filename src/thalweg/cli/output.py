"""Output of commands: JSON for programs, tables for people.

Names, messages and errors come from users and from files of strangers. All that a command prints passes ``echo``,
``print_json`` or a console of this module, so no terminal obeys a control character of theirs.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thalweg.errors import StoreError, is_hidden, printable

if TYPE_CHECKING:
    from rich.console import Console

    from thalweg.comparison.presentation.tables import Table
    from thalweg.parts import Parts

_MAX_MESSAGE = 4000  # characters of an error
_LAYOUT = "\n\t"  # of a text of several lines, as code and usage have

# Every command has this option, with the same text.
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result to stdout as JSON.")


def echo(text: str, *, err: bool = False) -> None:
    """Print a text, with control characters escaped.

    Args:
        text: The text. Line feeds and tabs stay.
        err: True prints to stderr.
    """
    click.echo(printable(text, keep=_LAYOUT), err=err)


def shorten(message: str) -> str:
    """Return the message of an error without the middle of a very long one, such as a name of a million letters."""
    half = _MAX_MESSAGE // 2
    return message if len(message) <= _MAX_MESSAGE else f"{message[:half]} … {message[-half:]}"


def print_json(value: Any) -> None:
    """Print one JSON value to stdout. Characters that a terminal might obey are escaped as JSON escapes them."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if not text.isprintable():
        text = "".join(json.dumps(char)[1:-1] if is_hidden(char) and char != "\n" else char for char in text)
    click.echo(text)


def stdout_console() -> "Console":
    """Return the console on which commands print tables.

    A pipe or file has no width, so the console folds no table there. If the reader closes the pipe, the process ends
    without an error.
    """
    return _console(width=None if sys.stdout.isatty() else 200)


def stderr_console() -> "Console":
    """Return the console on which commands show progress."""
    return _console(stderr=True)


def _console(**options: Any) -> "Console":
    """Return a console that interprets no markup and no emoji in names, and escapes control characters in them."""
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*(_line(item) if isinstance(item, str) else item for item in objects), **how)

        def render(self, *arguments: Any, **how: Any) -> Any:
            for segment in super().render(*arguments, **how):
                text = segment.text
                yield (
                    segment
                    if segment.control or text.isprintable()
                    else Segment(printable(text, keep=_LAYOUT), segment.style)
                )

        def on_broken_pipe(self) -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0)

    return SafeConsole(highlight=False, markup=False, emoji=False, **options)


def _line(text: str) -> str:
    """A sentence in one line, after the empty lines before it."""
    start = len(text) - len(text.lstrip("\n"))
    return text[:start] + printable(text[start:])


@contextmanager
def naming_option(option: str) -> Iterator[None]:
    """Name an option in the error of a file that cannot be written.

    Args:
        option: The option that chose the file: ``"--out"``.
    """
    try:
        yield
    except StoreError as error:
        raise StoreError(f"{option} {error}") from error


def show_result(
    parts: "Parts",
    page: str,
    write_page: Callable[[], Path],
    print_text: Callable[[], object],
    as_dict: Callable[[], dict[str, Any]],
    *,
    as_json: bool,
) -> None:
    """Print a result, and write its page. An interrupt while the page is written loses nothing of the result.

    Args:
        parts: The parts of the result.
        page: What the page is called: ``"report"``.
        write_page: Writes the page and returns its path. It may take seconds.
        print_text: Prints the result for people.
        as_dict: Returns the result for programs; the path of the page is added as ``report``.
        as_json: True prints the result for programs.
    """
    path = None
    if as_json:
        try:
            path = parts.make(f"the {page}", write_page, None)
        finally:  # only an interrupt gets here without a path
            print_json(as_dict() | {"report": path and str(path)})
        return
    print_text()
    sys.stdout.flush()
    path = parts.make(f"the {page}", write_page, None)
    if path:
        echo(f"{page.capitalize()}: {path}")


def end_with(parts: "Parts", of_tasks: Mapping[str, "Parts"] | None = None) -> None:
    """End a command with an error for each part of its result that is missing: code 1 after a bug, else 2.

    Args:
        parts: The parts of the result that was printed.
        of_tasks: Those of the results of each task, by its name.
    """
    places = {"": parts, **(of_tasks or {})}
    missing = [(task, part) for task, each in places.items() for part in each.missing]
    for task, part in missing:
        echo(f"error: {f'{task}: ' if task else ''}{part.text}", err=True)
    if missing:
        click.get_current_context().exit(1 if any(part.is_bug for _, part in missing) else 2)


def print_table(console: "Console", table: "Table") -> None:
    """Print a table in the width of the console. What is longer than a line is left to the terminal: nothing is cut."""
    from rich.text import Text

    for line in table.lines(console.width):
        console.print(Text(line.text, style="bold" if line.is_bold else ""), soft_wrap=True)


def example(command_line: str) -> str:
    """Return the last lines of a command's help: an example, which the tests run."""
    return f"\b\nExample:\n  {command_line}"


def joined(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> str | None:
    """Return the comma-separated lists of an option that was given several times as one list; None if it was not."""
    return ",".join(values) if values else None
