"""The charts of a suite: means over tasks, and performance profiles."""

from collections.abc import Mapping

from thalweg.comparison.results.aggregate import Aggregate
from thalweg.report.charts.data import Axis, Chart, Point, Series, View, alt_of_ends, alt_of_intervals, value_axis


def means_chart(aggregate: Aggregate, colours: Mapping[str, int]) -> Chart:
    """Return the interquartile mean of each contender with its interval, the best on top.

    Args:
        aggregate: The results over all tasks.
        colours: The number of the colour of each contender.
    """
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


def profile_chart(aggregate: Aggregate, colours: Mapping[str, int]) -> Chart:
    """Return for each contender the share of runs within a ratio to the best contender, with its band.

    Args:
        aggregate: The results over all tasks.
        colours: The number of the colour of each contender.
    """
    series = []
    for place, (name, profile) in enumerate(aggregate.profiles.items(), 1):
        rows = zip(aggregate.ratios, profile.share, profile.low, profile.high, strict=True)
        points = [Point(ratio, 100 * share, 100 * low, 100 * high) for ratio, share, low, high in rows]
        series.append(Series(name, colours[name], points, label=f"{place} {name}"))
    last = float(aggregate.ratios[-1])
    x = Axis("ratio to the best contender of the task", "log" if last > 5 else "linear", (1.0, last), (1.0, last))
    y = Axis("share of runs", "linear", None, (0.0, 100.0), "%", is_fixed=True)
    alt = alt_of_ends(f"Share of runs within a ratio to the best, in percent, up to a ratio of {last:.3g}", series)
    return Chart(
        "profiles", "lines", "Share of runs within a ratio to the best", [View("", x, y, series, alt)], is_stepped=True
    )
