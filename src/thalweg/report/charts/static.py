"""Charts without a script: drawn by matplotlib as SVG, to be placed in an HTML page.

`static/charts.js` draws the same data. Text stays text and uses the page's font. Ink, grid and contenders use the
page's colours, so that a dark page has light charts.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from thalweg.errors import printable
from thalweg.report.charts.data import MAX_DRAWN, Axis, Chart, Point, Series
from thalweg.report.charts.theme import (
    DASHES,
    MARKERS,
    ON_PAGE,
    colour_of,
    drawing_style,
    no_warnings,
    svg_for_page,
    turn_of,
)
from thalweg.report.numbers import MAX_NAME, format_number, shorten, shorten_middle

WIDTH = 3.7  # inches: so narrow that its text is readable on a phone
MAX_LABELS = 28  # names of rows; of more rows every second one is named, or fewer
MAX_ROW_NAME = 30  # characters of the name of a row

INK = ON_PAGE.ink
_FONT_SIZE = 10.0


def render_svg(title: str, width: float, height: float, draw: Callable[[Axes], None]) -> Markup:
    """Return one chart as SVG.

    Args:
        title: The text that a screen reader reads.
        width: Width in inches.
        height: Height in inches.
        draw: Draws the chart on the axes.
    """
    title = printable(title)
    with drawing_style(ON_PAGE, title, font_size=_FONT_SIZE, has_frame=False), no_warnings():
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        return svg_for_page(figure, title)


def static_chart(chart: Chart) -> Markup:
    """Draw the first view of a chart.

    Args:
        chart: The chart.
    """
    view = chart.views[0]
    height = {
        "intervals": 0.8 + 0.28 * max(1, len(view.series)),
        "rows": 0.9 + 0.21 * min(max(len(view.rows), 3), MAX_LABELS),
    }.get(chart.kind, 2.9)
    draw = {"intervals": _draw_intervals, "rows": _draw_rows, "lines": _draw_lines, "dots": _draw_dots}[chart.kind]
    return render_svg(view.alt, WIDTH, height, lambda axes: draw(axes, chart))


def _draw_intervals(axes: Axes, chart: Chart) -> None:
    """Draw a dot and a line for each series, the first on top, and a grey band over the first interval."""
    view = chart.views[0]
    for row, series in enumerate(view.series):
        for point in series.points:
            low, high = (end if math.isfinite(end) else point.y for end in (point.low, point.high))
            colour = colour_of(series.colour)
            axes.plot([low, high], [row] * 2, color=colour, alpha=0.4, linewidth=4, solid_capstyle="round")
            axes.plot([point.y], [row], MARKERS[turn_of(series.colour)], color=colour, markersize=7)
    for point in view.series[0].points if view.series else ():
        if math.isfinite(point.low) and math.isfinite(point.high):
            axes.axvspan(point.low, point.high, color=INK, alpha=0.07, linewidth=0)
    axes.set_yticks(range(len(view.series)), [shorten(series.name, MAX_NAME) for series in view.series])
    axes.set_ylim(len(view.series) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    _set_axis(axes, "x", view.x)


def _draw_rows(axes: Axes, chart: Chart) -> None:
    """Draw a dot for each value of a row; the first row is on top. A line joins the rows of a single series."""
    view = chart.views[0]
    _set_axis(axes, "x", view.x)
    low, high = view.x.span
    step = math.ceil(len(view.rows) / MAX_LABELS)
    chosen = {int(point.x) for series in view.series for point in series.points if point.mark == "chosen"}
    for series in view.series:
        colour, marker = colour_of(series.colour), MARKERS[turn_of(series.colour)]
        inside = [point for point in series.points if low <= point.y <= high]
        if len(view.series) == 1:
            axes.plot(
                [point.y for point in inside], [point.x for point in inside], color=colour, alpha=0.35, linewidth=1
            )
        for point in series.points:
            place, shape, size = point.y, marker, 5.0
            if point.mark == "lost" or not abs(point.y) < MAX_DRAWN:
                place, shape = high, "x"
            elif not low <= point.y <= high:
                place, shape = (low, "<") if point.y < low else (high, ">")
            edge = {"mec": INK, "mew": 1.4, "markersize": 8.0} if point.mark == "chosen" else {"markersize": size}
            axes.plot([place], [point.x], shape, color=colour, clip_on=False, **edge)
    labelled = [row for row in range(len(view.rows)) if row % step == 0 or (row in chosen and len(chosen) == 1)]
    axes.set_yticks(labelled, [shorten_middle(view.rows[row], MAX_ROW_NAME) for row in labelled])
    axes.set_ylim(len(view.rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _draw_lines(axes: Axes, chart: Chart) -> None:
    view = chart.views[0]
    _set_axis(axes, "x", view.x)
    _set_axis(axes, "y", view.y)
    for series in view.series:
        x, y, low, high = np.array([point[:4] for point in series.points], dtype=float).reshape(-1, 4).T
        colour = colour_of(series.colour)
        style = "steps-post" if chart.is_stepped else "default"
        axes.fill_between(
            x, low, high, color=colour, alpha=0.16, linewidth=0, step="post" if chart.is_stepped else None
        )
        dashes = DASHES[turn_of(series.colour)]
        axes.plot(x, y, color=colour, linewidth=1.7, drawstyle=style, linestyle=dashes)
        if np.isfinite(y).sum() == 1:  # a line of one point would not be seen
            axes.plot(x, y, MARKERS[turn_of(series.colour)], color=colour, markersize=4)
        for point in series.points:
            if point.mark == "lost":
                edge = 0.02 if chart.maximize else 0.98
                axes.plot(
                    [point.x], [edge], "x", color=colour, markersize=8, mew=2, transform=axes.get_xaxis_transform()
                )
    if view.vertical:
        _draw_vertical(axes, *view.vertical)


def _draw_vertical(axes: Axes, place: float, label: str) -> None:
    """Mark a place on the horizontal axis; its label stands on the side that has room for it."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, place), max(high, place))
    near_end = place > low + 0.6 * (high - low)
    axes.axvline(place, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        label,
        (place, 1),
        (-4 if near_end else 4, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if near_end else "left",
        va="top",
    )


def _draw_dots(axes: Axes, chart: Chart) -> None:
    view = chart.views[0]
    _set_axis(axes, "x", view.x)
    _set_axis(axes, "y", view.y)
    for series in view.series:
        for point in series.points:
            _draw_dot(axes, view.y, series, point, lost_at=view.y.span[0 if chart.maximize else 1])
        if series.line:
            x, y = zip(*((point.x, point.y) for point in series.line), strict=True)
            dashes = DASHES[turn_of(series.colour)]
            axes.plot(x, y, color=colour_of(series.colour), linewidth=1.3, alpha=0.6, linestyle=dashes)


def _draw_dot(axes: Axes, axis: Axis, series: Series, point: Point, *, lost_at: float) -> None:
    """Draw a point; one beyond the axis as an arrow at its edge, one without a value as a cross."""
    low, high = axis.span
    colour, marker = colour_of(series.colour), MARKERS[turn_of(series.colour)]
    if point.mark == "lost" or not abs(point.y) < MAX_DRAWN:
        axes.plot([point.x], [lost_at], "x", color=colour, markersize=5, alpha=0.7, clip_on=False)
    elif not low <= point.y <= high:
        edge, arrow = (low, "v") if point.y < low else (high, "^")
        axes.plot([point.x], [edge], arrow, color=colour, markersize=4, alpha=0.7, clip_on=False)
    elif point.mark == "chosen":
        axes.plot([point.x], [point.y], marker, markersize=9, mfc=colour, mec=INK, mew=1.4)
    else:
        axes.plot([point.x], [point.y], marker, color=colour, markersize=4, alpha=0.65)


def _set_axis(axes: Axes, which: str, axis: Axis) -> None:
    set_scale(axes, which, axis.span, is_log=axis.scale == "log")
    low, high = axis.span
    room = 0.04 * (high - low)
    limits = (low / 1.1, high * 1.1) if axis.scale == "log" else (low - room, high + room)
    (axes.set_xlim if which == "x" else axes.set_ylim)(*limits)
    label = f"{axis.label} ({axis.unit})" if axis.unit else axis.label
    (axes.set_xlabel if which == "x" else axes.set_ylabel)(shorten(label, 60))


def set_scale(axes: Axes, which: str, values: Sequence[float], *, is_log: bool | None = None) -> None:
    """Set a scale with plain numbers as labels.

    Args:
        axes: The axes.
        which: ``x`` or ``y``.
        values: The values.
        is_log: True for a logarithmic axis. Defaults to one if the values span a factor above five.
    """
    finite = [value for value in values if math.isfinite(value)]
    axis = axes.xaxis if which == "x" else axes.yaxis
    positive = [value for value in finite if value > 0]
    if is_log is None:
        is_log = bool(positive) and max(finite) > 5 * min(positive) and len(positive) > len(finite) / 2
    if is_log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log", nonpositive="clip")
        decades = math.log10(max(positive) / min(positive))
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.2 else (1.0,), numticks=7))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
        return
    axis.set_major_locator(MaxNLocator(6 if which == "y" else 5))
    # Use so many digits that neighbouring ticks have different labels.
    largest, span = max(map(abs, finite), default=1.0), max(finite, default=1.0) - min(finite, default=0.0)
    ratio = largest / span if span > 0 else 1.0
    num_digits = max(3, 2 + math.ceil(math.log10(ratio))) if 0 < ratio < math.inf else 3
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value, num_digits)))
