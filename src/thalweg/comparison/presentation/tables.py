"""Tables for terminals of any width and for notebooks. No cell is ever cut.

If the columns do not fit side by side, they are divided among several tables that repeat the first column. If even one
of them does not fit beside it, the table is stacked: a paragraph for each row.
"""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich.cells import cell_len

from thalweg.errors import printable

GAP = 2  # spaces between columns
MIN_FOLDED_WIDTH = 20
_INDENT = "  "


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: The heading.
        cells: The text of each row.
        align: The side at which the text stands.
        folds: True if long cells may continue on further lines, between words.
    """

    heading: str
    cells: Sequence[str]
    align: Literal["left", "right"] = "right"
    folds: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "heading", printable(self.heading))  # a terminal would obey control characters
        object.__setattr__(self, "cells", [printable(cell) for cell in self.cells])

    @property
    def width(self) -> int:
        """The width of its widest cell."""
        return max(map(cell_len, (self.heading, *self.cells)))

    @property
    def min_width(self) -> int:
        """The least width that cuts no cell."""
        if not self.folds:
            return self.width
        words = [word for text in (self.heading, *self.cells) for word in text.split()]
        return min(self.width, max(MIN_FOLDED_WIDTH, *map(cell_len, words)))


class TextLine(NamedTuple):
    """A line of a table, and True if it belongs to the emphasized row."""

    text: str
    is_bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        columns: The columns, each with a cell for each row.
        bold_row: The index of an emphasized row; None for none.

    Example:
        >>> table = Table([Column("contender", ["adam", "sgd"], "left"), Column("value", ["0.09", "0.1"])])
        >>> print(table.text(80))
        contender  value
        adam        0.09
        sgd          0.1
    """

    columns: Sequence[Column]
    bold_row: int | None = None

    def text(self, width: int) -> str:
        """Return the table as text without trailing spaces."""
        return "\n".join(line.text for line in self.lines(width))

    def lines(self, width: int) -> list[TextLine]:
        """Return the lines of the table. A line is longer than ``width`` only if a single word is.

        Args:
            width: The characters in a line of the terminal.
        """
        key, *rest = self.columns
        if not rest:
            return list(self._side_by_side([key], [key.width]))
        if key.width + GAP + max(column.min_width for column in rest) > width:
            return list(self._stacked(width))
        lines: list[TextLine] = []
        for part in _divided(key, rest, width):
            lines += [TextLine("")] if lines else []
            used = sum(column.min_width for column in part) + GAP * (len(part) - 1)
            widths = [column.min_width + _extra(column, width - used) for column in part]
            lines += self._side_by_side(part, widths)
        return lines

    def _side_by_side(self, columns: Sequence[Column], widths: Sequence[int]) -> Iterator[TextLine]:
        yield TextLine(_joined([column.heading for column in columns], columns, widths))
        for row in range(len(columns[0].cells)):
            cells = [_folded(column.cells[row], width) for column, width in zip(columns, widths, strict=True)]
            for k in range(max(map(len, cells))):
                texts = [cell[k] if k < len(cell) else "" for cell in cells]
                yield TextLine(_joined(texts, columns, widths), row == self.bold_row)

    def _stacked(self, width: int) -> Iterator[TextLine]:
        key, *rest = self.columns
        label_width = max(cell_len(column.heading) for column in rest)
        for row, name in enumerate(key.cells):
            yield TextLine(name, row == self.bold_row)
            for column in rest:
                label, cell = f"{_INDENT}{column.heading}", column.cells[row]
                room = width - len(_INDENT) - label_width - GAP
                if cell_len(cell) <= room:
                    yield TextLine(f"{label}{' ' * (label_width - cell_len(column.heading) + GAP)}{cell}".rstrip())
                    continue
                yield TextLine(label)
                yield from (TextLine(f"{2 * _INDENT}{part}") for part in _folded(cell, width - 2 * len(_INDENT)))

    def html(self) -> str:
        """Return the table as HTML, every text escaped."""
        head = "".join(f"<th>{html.escape(column.heading)}</th>" for column in self.columns)
        rows = "".join(self._html_row(row) for row in range(len(self.columns[0].cells)))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def _html_row(self, row: int) -> str:
        style = ' style="font-weight:bold"' if row == self.bold_row else ""
        cells = (
            f'<td style="text-align:{column.align}">{html.escape(column.cells[row])}</td>' for column in self.columns
        )
        return f"<tr{style}>{''.join(cells)}</tr>"


def _divided(key: Column, rest: Sequence[Column], width: int) -> list[list[Column]]:
    """Return the columns of each table: as many as fit beside the first column."""
    parts: list[list[Column]] = []
    room = 0
    for column in rest:
        room -= GAP + column.min_width
        if room < 0:
            parts.append([key])
            room = width - key.width - GAP - column.min_width
        parts[-1].append(column)
    return parts


def _extra(column: Column, room: int) -> int:
    """Return the width that a column which folds takes of the room that is left."""
    return min(max(0, room), column.width - column.min_width) if column.folds else 0


def _joined(texts: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = []
    for text, column, width in zip(texts, columns, widths, strict=True):
        spaces = " " * (width - cell_len(text))
        padded.append(text + spaces if column.align == "left" or column.folds else spaces + text)
    return (" " * GAP).join(padded).rstrip()


def _folded(text: str, width: int) -> list[str]:
    """Return the lines of a text, divided between words. A word that is longer than a line has a line of its own."""
    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line for line in lines if line] or [""]
