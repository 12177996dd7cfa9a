"""The charts of a suite: the contenders on each task, their means over tasks, and performance profiles."""

import math
from collections.abc import Mapping

from thalweg.comparison.results.aggregate import Aggregate
from thalweg.comparison.suite_standing import Standing
from thalweg.report.charts.data import (
    Axis,
    Chart,
    Point,
    Series,
    View,
    alt_of_ends,
    alt_of_intervals,
    alt_of_rows,
    value_axis,
)
from thalweg.report.numbers import MAX_NAME, shorten

_RATIO = "ratio to the best contender of the task"


def matrix_chart(matrix: Mapping[str, Mapping[str, Standing]], colours: Mapping[str, int]) -> Chart | None:
    """Return the ratio of each contender to the best of each task, a row for each task.

    Args:
        matrix: The results by task and contender.
        colours: The number of the colour of each contender, in the order of the table.

    Returns:
        The chart. None if no two contenders can be compared by ratios.
    """
    tasks = [task for task, row in matrix.items() if any(map(_is_measured, row.values()))]
    series = []
    for name in colours:
        standings = [(row, matrix[task][name]) for row, task in enumerate(tasks) if name in matrix[task]]
        points = [
            Point(row, standing.ratio) if _is_measured(standing) else Point(row, math.nan, mark="lost")
            for row, standing in standings
            if _is_measured(standing) or (standing.seeds and not standing.has_value)
        ]
        if points:
            series.append(Series(name, colours[name], points))
    if len(series) < 2:
        return None
    axis = value_axis(_RATIO, [point.y for line in series for point in line.points])
    rows = [shorten(task, 2 * MAX_NAME) for task in tasks]
    alt = alt_of_rows("Ratio to the best contender of each task", rows, series)
    view = View("", axis, Axis("", "linear", None, (-0.5, len(rows) - 0.5)), series, alt, rows=rows)
    is_marked = any(point.mark == "lost" for line in series for point in line.points)
    beyond = any(point.y > axis.span[1] for line in series for point in line.points)
    marks = [" A cross is a contender without a value: all its seeds were lost or failed."] if is_marked else []
    marks += [" A triangle lies beyond the scale."] if beyond else []
    note = f"1 is the best of the task.{''.join(marks)}"
    return Chart("matrix", "rows", "Ratio to the best of each task", [view], note=note)


def _is_measured(standing: Standing) -> bool:
    return standing.has_value and math.isfinite(standing.ratio)


def means_chart(aggregate: Aggregate | None, colours: Mapping[str, int]) -> Chart | None:
    """Return the interquartile mean of each contender with its interval, the best on top.

    Args:
        aggregate: The results over all tasks; None if there are none.
        colours: The number of the colour of each contender.
    """
    if aggregate is None:
        return None
    series = [
        Series(name, colours[name], [Point(row, ratio.mean, ratio.low, ratio.high)])
        for row, (name, ratio) in enumerate(aggregate.ratio.items())
    ]
    label = "interquartile mean of the ratio to the best"
    ends = [end for line in series for point in line.points for end in point[1:4]]
    axis = value_axis(label, ends, beyond=5.0)
    rows = Axis("", "linear", None, (-0.5, len(series) - 0.5))
    view = View("", axis, rows, series, alt_of_intervals(label, series))
    return Chart("means", "intervals", "Interquartile mean of the ratio to the best, with 95 % intervals", [view])


def profile_chart(aggregate: Aggregate | None, colours: Mapping[str, int]) -> Chart | None:
    """Return for each contender the share of runs within a ratio to the best contender, with its band.

    Args:
        aggregate: The results over all tasks; None if there are none.
        colours: The number of the colour of each contender.
    """
    if aggregate is None:
        return None
    series = []
    for place, (name, profile) in enumerate(aggregate.profiles.items(), 1):
        rows = zip(aggregate.ratios, profile.share, profile.low, profile.high, strict=True)
        points = [Point(ratio, 100 * share, 100 * low, 100 * high) for ratio, share, low, high in rows]
        series.append(Series(name, colours[name], points, label=f"{place} {name}"))
    last = float(aggregate.ratios[-1])
    x = Axis(_RATIO, "log" if last > 5 else "linear", (1.0, last), (1.0, last))
    y = Axis("share of runs", "linear", None, (0.0, 100.0), "%", is_fixed=True)
    alt = alt_of_ends(f"Share of runs within a ratio to the best, in percent, up to a ratio of {last:.3g}", series)
    return Chart(
        "profiles", "lines", "Share of runs within a ratio to the best", [View("", x, y, series, alt)], is_stepped=True
    )
