"""Numbers and names as the pages write them; the script of a page writes numbers in the same way."""

import math

from thalweg.comparison.results.estimate import Estimate
from thalweg.errors import printable

MAX_NAME = 40  # characters of a name in a chart


def shorten(text: str, max_length: int = 200) -> str:
    """Return a text for a place with little room: visible characters only, and not too many of them."""
    text = printable(text)
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


def capitalized(text: str) -> str:
    """Return a text as the beginning of a heading."""
    return text[:1].upper() + text[1:]


def shorten_middle(text: str, max_length: int) -> str:
    """Return a text for a place with little room, without its middle: names of modules differ at their ends.

    Example:
        >>> shorten_middle("transformer.blocks.11.attention", 20)
        'transform….attention'
    """
    text = printable(text)
    if len(text) <= max_length:
        return text
    kept = max_length - 1
    return f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"


def format_number(value: float, num_digits: int = 3) -> str:
    """Format a number as briefly as possible; a dash if it is not finite.

    Example:
        >>> [format_number(value) for value in (0.00012, 0.034, 12.0, 1234.5, 1.2345e-9, float("inf"))]
        ['0.00012', '0.034', '12', '1,234', '1.2e-09', '–']
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2g}"
    text = f"{value:.{num_digits}g}"
    return f"{float(text) if abs(value) < 1000 else value:,.0f}" if abs(value) >= 1000 or "e" in text else text


def format_digits(value: float) -> str:
    """Format a number with exactly three digits, for columns that are compared: 0.0800, 12.0."""
    return f"{value:#.3g}".rstrip(".") if 1e-4 <= abs(value) < 999.5 else format_number(value)


def format_interval(estimate: Estimate) -> str:
    """Format the interval of an estimate for a table; a dash if there is none, as of a single seed."""
    return f"{format_digits(estimate.low)} – {format_digits(estimate.high)}" if estimate.has_interval else "–"


def format_seconds(seconds: float) -> str:
    """Format a duration with its unit.

    Example:
        >>> [format_seconds(value) for value in (0.00123, 0.5, 12.34, 7200.0, float("nan"))]
        ['1.2 ms', '0.5 s', '12 s', '7200 s', '–']
    """
    if not math.isfinite(seconds):
        return "–"
    if abs(seconds) < 0.1:
        return f"{format_number(1000 * seconds, 2)} ms"
    return f"{seconds:.0f} s" if seconds >= 100 else f"{format_number(seconds, 2)} s"


def format_bytes(count: float) -> str:
    """Format an amount of memory with its unit.

    Example:
        >>> [format_bytes(value) for value in (0, 512, 18_512, 3_400_000)]
        ['0 B', '512 B', '18.5 kB', '3.4 MB']
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{format_number(count)} {unit}"


def sortable(value: float) -> str:
    """Return a number as an attribute by which the script sorts a table; empty if there is none."""
    return repr(float(value)) if math.isfinite(value) else ""
