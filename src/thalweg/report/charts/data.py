"""Chart data: what a chart shows, as plain data. A script of the page draws it; matplotlib draws it without scripts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from thalweg.errors import printable
from thalweg.report.numbers import format_number, shorten

MAX_DRAWN = 1e300  # a number beyond leaves no room for an axis
LOG_FROM = 5.0  # a factor between the values from which an axis is logarithmic
BEYOND = 10.0  # times the median: a value farther away is marked at the edge, so that it does not squeeze the others
_MAX_IN_ALT = 12  # series whose values a text for a screen reader names

Kind = Literal["intervals", "rows", "lines", "dots"]
Mark = Literal["", "chosen", "lost", "stopped"]
Span = tuple[float, float]


class Point(NamedTuple):
    """A point of a chart.

    Attributes:
        x: Its place; of an interval or in a row, the number of the row from the top.
        y: Its value; of an interval, its middle.
        low: Lower end of a band or an interval; not a number if there is none.
        high: Upper end.
        mark: ``chosen`` for a ring, ``lost`` for a place without a value, ``stopped`` for a training that ended early.
        trial: The number of the training among the raw numbers; -1 for none.
    """

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    mark: Mark = ""
    trial: int = -1


@dataclass(frozen=True)
class Series:
    """The points of one name.

    Attributes:
        name: The name, such as that of a contender.
        colour: The number of its colour.
        points: The points, of a line in order of x.
        line: The points of a line that is drawn through the dots.
        label: The text at the end of its line; the name if it is empty.
    """

    name: str
    colour: int
    points: Sequence[Point]
    line: Sequence[Point] = ()
    label: str = ""


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: The quantity.
        scale: The scale at first.
        log: The span of a logarithmic axis; None if values of zero or below forbid it.
        linear: The span of a linear axis. Values beyond a span are marked at its edge.
        unit: ``%`` or ``s``; empty for a number.
        is_fixed: True if the axis shows its whole span, also where no value lies: charts that are compared share it.
    """

    label: str
    scale: Literal["linear", "log"]
    log: Span | None
    linear: Span
    unit: str = ""
    is_fixed: bool = False

    @property
    def span(self) -> Span:
        """The span of the scale at first."""
        return self.log if self.scale == "log" and self.log is not None else self.linear


@dataclass(frozen=True)
class View:
    """One view of a chart: a reader chooses among several.

    Attributes:
        name: The name on its button; empty if there is one view only.
        x: The horizontal axis.
        y: The vertical axis.
        series: The series, in the order of the table.
        alt: The text for a screen reader, with the most important values.
        vertical: A place on the horizontal axis that is marked, with its label.
        rows: The names of the rows of a chart of rows, the first on top.
    """

    name: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    alt: str
    vertical: tuple[float, str] | None = None
    rows: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """A chart with its heading.

    Attributes:
        id: A name for files and links.
        kind: The form.
        title: The heading.
        views: The views, at least one; the first is shown at first.
        note: How to read it.
        maximize: True if higher values are better: a lost training is then marked at the bottom.
        is_stepped: True if a line keeps its value up to the next point.
    """

    id: str
    kind: Kind
    title: str
    views: Sequence[View]
    note: str = ""
    maximize: bool = False
    is_stepped: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the chart as plain JSON for the script."""
        return {
            "id": self.id,
            "kind": self.kind,
            "title": printable(self.title),
            "maximize": self.maximize,
            "step": self.is_stepped,
            "views": [_view_json(view) for view in self.views],
        }


def _view_json(view: View) -> dict[str, Any]:
    return {
        "name": view.name,
        "alt": printable(view.alt),
        "x": _axis_json(view.x),
        "y": _axis_json(view.y),
        "vertical": view.vertical,
        "rows": [printable(name) for name in view.rows],
        "series": [
            {
                "name": printable(series.name),
                "label": printable(series.label or series.name),
                "colour": series.colour,
                "line": [_point_json(point) for point in series.line],
                "points": [_point_json(point) for point in series.points],
            }
            for series in view.series
        ],
    }


def _axis_json(axis: Axis) -> dict[str, Any]:
    return {
        "label": printable(axis.label),
        "scale": axis.scale,
        "log": axis.log,
        "linear": axis.linear,
        "unit": axis.unit,
        "fixed": axis.is_fixed,
    }


def _point_json(point: Point) -> list[Any]:
    values: list[Any] = [_rounded(value) for value in point[:4]] + [point.mark, point.trial]
    while values and values[-1] in (None, "", -1):
        values.pop()
    return values


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def drawable(values: Iterable[float]) -> list[float]:
    """Return the values that an axis can show, in ascending order."""
    return sorted(value for value in values if abs(value) < MAX_DRAWN)


def value_axis(
    label: str, values: Iterable[float], *, maximize: bool = False, unit: str = "", beyond: float = BEYOND
) -> Axis:
    """Return an axis for measured values, whose spans leave out the worst of them if they would squeeze the rest.

    A span ends at ``beyond`` times the median (for values that are not all positive and on a linear axis, at so many
    times the distance of the median from the best).

    Args:
        label: The quantity.
        values: The values.
        maximize: True if higher values are better.
        unit: The unit.
        beyond: The factor.
    """
    finite = drawable(values)
    if not finite:
        return Axis(label, "linear", None, (0.0, 1.0), unit)
    low, high, median = finite[0], finite[-1], finite[len(finite) // 2]
    if low == high:
        room = 0.1 * abs(low) or 1.0
        return Axis(label, "linear", None, (low - room, high + room), unit)
    best = high if maximize else low
    reach = beyond * (abs(median - best) or high - low)
    linear = (max(low, best - reach), high) if maximize else (low, min(high, best + reach))
    if low <= 0:
        return Axis(label, "linear", None, linear, unit)
    log = (max(low, median / beyond), high) if maximize else (low, min(high, median * beyond))
    return Axis(label, "log" if log[1] > LOG_FROM * log[0] else "linear", log, linear, unit)


def whole_axis(label: str, values: Iterable[float], *, log: bool | None = None, is_fixed: bool = False) -> Axis:
    """Return an axis for values of which none may be left out, such as a loss that explodes.

    Args:
        label: The quantity.
        values: The values.
        log: False forbids a logarithmic axis. By default there is one if most values are positive.
        is_fixed: True if charts that are compared share the axis.
    """
    finite = drawable(values)
    if not finite:
        return Axis(label, "linear", None, (0.0, 1.0))
    low, high = finite[0], finite[-1]
    if low == high:
        return value_axis(label, finite)
    positive = [value for value in finite if value > 0]
    room = 0.1 * (high / 2 - low / 2) if is_fixed else 0.0
    linear = (low - room, high + room)
    if log is False or 2 * len(positive) <= len(finite) or positive[0] == positive[-1]:
        return Axis(label, "linear", None, linear, is_fixed=is_fixed)
    air = (positive[-1] / positive[0]) ** 0.05 if is_fixed else 1.0
    span = (positive[0] / air, positive[-1] * air)
    return Axis(label, "log" if span[1] > LOG_FROM * span[0] else "linear", span, linear, is_fixed=is_fixed)


def place_axis(label: str, values: Iterable[float], *, unit: str = "", is_log: bool = False) -> Axis:
    """Return an axis for places, such as steps or learning rates, with all of them inside.

    Args:
        label: The quantity.
        values: The places.
        unit: The unit.
        is_log: True for a logarithmic axis.
    """
    finite = drawable(values) or [0.0, 1.0]
    low, high = finite[0], finite[-1]
    if low == high:
        low, high = (low / 2, high * 2) if low > 0 else (low - 1, high + 1)
    log = (low, high) if low > 0 else None
    return Axis(label, "log" if is_log and log else "linear", log, (low, high), unit)


def alt_of_ends(label: str, series: Sequence[Series]) -> str:
    """Return the text of a chart of lines: where each of them ends.

    Args:
        label: The quantity.
        series: The lines.
    """
    ends = []
    for line in series:
        last = next((point for point in reversed(line.points) if math.isfinite(point.y)), None)
        ends.append(f"{shorten(line.name, 40)} {'no value' if last is None else format_number(last.y)}")
    return f"{label}. At the end: {_listed(ends)}."


def alt_of_best(label: str, place: str, series: Sequence[Series], *, maximize: bool) -> str:
    """Return the text of a chart of dots: the best point of each series.

    Args:
        label: The quantity.
        place: The quantity of the horizontal axis.
        series: The series.
        maximize: True if higher values are better.
    """
    texts = []
    for dots in series:
        points = [point for point in dots.points if math.isfinite(point.y) and point.mark != "lost"]
        if points:
            best = (max if maximize else min)(points, key=lambda point: point.y)
            texts.append(f"{shorten(dots.name, 40)} {format_number(best.y)} at {place} {format_number(best.x)}")
    return f"{label} against {place}. The best: {_listed(texts)}."


def alt_of_intervals(label: str, series: Sequence[Series]) -> str:
    """Return the text of a chart of intervals.

    Args:
        label: The quantity.
        series: The intervals, the best first.
    """
    texts = []
    for interval in series:
        for point in interval.points:
            ends = f" ({format_number(point.low)} to {format_number(point.high)})" if math.isfinite(point.low) else ""
            texts.append(f"{shorten(interval.name, 40)} {format_number(point.y)}{ends}")
    return f"{label}, with 95 % intervals: {_listed(texts)}."


def alt_of_rows(label: str, rows: Sequence[str], series: Sequence[Series]) -> str:
    """Return the text of a chart of rows with several series: the values of each row.

    Args:
        label: The quantity.
        rows: The names of the rows.
        series: The series.
    """
    texts = []
    for row, name in enumerate(rows):
        points = [(line.name, point.y) for line in series for point in line.points if point.x == row]
        values = ", ".join(
            f"{shorten(series_name, 40)} {format_number(value) if math.isfinite(value) else 'no value'}"
            for series_name, value in points
        )
        texts.append(f"{shorten(name, 40)}: {values}")
    return f"{label}. {_listed(texts)}."


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _MAX_IN_ALT
    return "; ".join(texts[:_MAX_IN_ALT]) + (f"; and {more} more" if more > 0 else "") or "nothing"


def thinned(points: Sequence[Point], count: int) -> list[Point]:
    """Return at most so many of the points, evenly spread, the first and the last among them.

    Args:
        points: The points.
        count: The largest number of points.
    """
    if len(points) <= count:
        return list(points)
    return [points[round(k * (len(points) - 1) / (count - 1))] for k in range(count)]
