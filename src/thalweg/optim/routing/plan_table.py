"""Plan table: the text of a routing plan, with a line for the same parameter of repeated blocks."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from thalweg.optim.routing.assignment import Assignment
from thalweg.rules import Rule

_COLUMNS = ("parameter", "shape", "role", "rule", "lr", "weight decay", "why")


def lines(whole: Rule, parameters: Iterable[Assignment]) -> list[str]:
    """Return the header and the lines of the table."""
    repeated: dict[Any, list[Assignment]] = {}
    for param in parameters:
        key = (re.sub(r"\d+", "#", param.name), param.shape, param.role, param.overrides, param.why, param.frozen)
        repeated.setdefault(key, []).append(param)
    rows = [_COLUMNS, *(_cells(whole, params) for params in repeated.values())]
    widths = [max(len(row[k]) for row in rows) for k in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as ``2x3``."""
    return "x".join(map(str, shape)) or "one number"


def _cells(whole: Rule, params: Sequence[Assignment]) -> tuple[str, ...]:
    """Return the cells of parameters that differ only in the numbers of their names."""
    first = params[0]
    settings = first.overrides.apply_to(whole).settings()
    numbers = (f"{settings[name]:g}" if name in settings else "–" for name in ("lr", "weight_decay"))
    blocks = next((f", {value} blocks" for key, value in first.overrides.settings if key.endswith("blocks")), "")
    rule = first.rule + blocks if first.role or first.frozen else "?"
    why = f"{first.why}; frozen" if first.frozen else first.why
    names = _joined([param.name for param in params])
    return names, shape_text(first.shape), first.role or "?", rule, *numbers, why


def _joined(names: list[str]) -> str:
    """Return `h.0.w`, `h.1.w`, `h.2.w` as `h.0-2.w (3)`."""
    if len(names) == 1:
        return names[0]
    texts = [re.split(r"(\d+)", name) for name in names]
    columns = [sorted({int(text[k]) for text in texts}) if k % 2 else texts[0][k] for k in range(len(texts[0]))]
    parts = [_span(column) if isinstance(column, list) else column for column in columns]
    return f"{''.join(parts)} ({len(names)})"


def _span(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    is_range = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if is_range else ",".join(map(str, numbers))
