"""Charts: stored results as SVG, drawn by matplotlib, to be placed in an HTML page.

Text stays text and uses the page's font. Ink and grid use the page's colours, so that a dark page has light charts.
"""

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from thalweg.comparison.results.aggregate import Aggregate
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.scoring import loss_of
from thalweg.comparison.results.summary import Estimate, Summary
from thalweg.errors import printable

# Distinct with any kind of colour vision (after Okabe & Ito 2008), on a dark and on a light page.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f6fd1", "#8a7a3a", "#c2455c", "#7f8c8d")

MAX_NAME = 40  # characters of a name in a chart
MAX_DRAWN = 1e300  # a number beyond leaves no room for an axis
FLOAT32_RESOLUTION = 2**-24

# Two placeholder colours that the page replaces by its own.
INK, _GRID = "#010203", "#040506"
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


def render_svg(title: str, width: float, height: float, draw: Callable[[Axes], None]) -> Markup:
    """Return one chart as SVG.

    Args:
        title: The text that a screen reader reads.
        width: Width in inches.
        height: Height in inches.
        draw: Draws the chart on the axes.
    """
    title = printable(title)
    # Warnings about glyphs that no font here has, or about charts of numbers at the end of their range, help nobody.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # the page has these rules in its own
    # An SVG inside HTML needs no namespaces, and without them the page names no outside address.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'width="[^"]*pt" height="[^"]*pt"', "", svg, count=1)
    svg = svg.replace(INK, "currentColor").replace(_GRID, "var(--grid)")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
    return Markup(svg)  # noqa: S704  (matplotlib escapes the texts that it draws)


def shorten(text: str, max_length: int = 200) -> str:
    """Return a text for a place with little room: visible characters only, and not too many of them."""
    text = printable(text)
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


def format_number(value: float, num_digits: int = 3) -> str:
    """Format a number as briefly as possible: 0.00012, 0.034, 12, 1.2e-09. A dash if it is not finite."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.{num_digits}g}" if value == 0 or 1e-4 <= abs(value) < 1e5 else f"{value:.2g}"


def format_digits(value: float) -> str:
    """Format a number with exactly three digits, for columns that are compared: 0.0800, 12.0."""
    return f"{value:#.3g}".rstrip(".") if 1e-4 <= abs(value) < 1e5 else format_number(value)


def format_interval(estimate: Estimate) -> str:
    """Format the interval of an estimate for a table; a dash if there is none, as of a single seed."""
    return f"{format_digits(estimate.low)} – {format_digits(estimate.high)}" if estimate.has_interval else "–"


def distance_to_optimum(loss: float, optimum: float | None) -> float:
    """Return loss - optimum, at least the resolution of float32; the loss itself if the optimum is unknown or 0."""
    return loss if not optimum else max(loss - optimum, FLOAT32_RESOLUTION * abs(optimum))


def value_chart(
    summaries: Sequence[Summary], colours: Mapping[str, str], label: str, *, optimum: float | None = None
) -> Markup:
    """Draw the value of each contender with its interval, the best on top.

    If the optimum is known, the chart shows distances to it.
    """
    intervals = {}
    for summary in summaries:
        if math.isfinite(summary.value.mean):
            low, mean, high = (
                distance_to_optimum(getattr(summary.value, end), optimum) for end in ("low", "mean", "high")
            )
            is_point = summary.value.count == 1  # a single seed has no interval
            intervals[summary.name] = (mean, mean, mean) if is_point else (low, mean, high)
    return interval_chart(intervals, colours, label)


def interval_chart(
    intervals: Mapping[str, tuple[float, float, float]], colours: Mapping[str, str], label: str
) -> Markup:
    """Draw a dot and a line for each (low, middle, high), by name, and a grey band over the first interval."""

    def draw(axes: Axes) -> None:
        for position, (name, (low, middle, high)) in enumerate(intervals.items()):
            ends = [end if math.isfinite(end) else middle for end in (low, high)]
            colour = colours[name]
            axes.plot(ends, [position] * 2, color=colour, alpha=0.35, linewidth=4, solid_capstyle="round")
            axes.plot([middle], [position], "o", color=colour, markersize=7)
        for low, _, high in list(intervals.values())[:1]:
            if math.isfinite(low) and math.isfinite(high):  # a bound lacks an end
                axes.axvspan(low, high, color=INK, alpha=0.07, linewidth=0)
        axes.set_yticks(range(len(intervals)), [shorten(name, MAX_NAME) for name in intervals])
        axes.set_ylim(len(intervals) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(label)
        set_scale(axes, "x", [value for interval in intervals.values() for value in interval])

    return render_svg(f"{label} of each contender", 5.2, 0.8 + 0.3 * max(1, len(intervals)), draw)


def profile_chart(aggregate: Aggregate, colours: Mapping[str, str]) -> Markup:
    """Draw for each contender the share of runs within a ratio to the best contender, with its band."""

    def draw(axes: Axes) -> None:
        for name, profile in aggregate.profiles.items():
            low, high = (100 * np.asarray(end) for end in (profile.low, profile.high))
            axes.fill_between(aggregate.ratios, low, high, color=colours[name], alpha=0.14, linewidth=0, step="post")
            share = 100 * np.asarray(profile.share)
            axes.plot(aggregate.ratios, share, color=colours[name], linewidth=1.8, drawstyle="steps-post")
        axes.set_xlim(1, aggregate.ratios[-1])
        axes.set_ylim(-2, 102)
        axes.set_xlabel("ratio to the best contender of the task")
        axes.set_ylabel("share of runs")
        set_scale(axes, "x", aggregate.ratios)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))

    return render_svg("Share of runs within a ratio to the best", 5.2, 3.3, draw)


def learning_curve_chart(
    summaries: Sequence[Summary],
    colours: Mapping[str, str],
    split: str,
    label: str,
    *,
    optimum: float | None = None,
    maximize: bool = False,
) -> Markup:
    """Draw the median value during training over the seeds of the race, with a band between the quartiles.

    If the optimum is known, the chart shows distances to it.
    """
    worst = -math.inf if maximize else math.inf
    curves = {summary.name: _quartiles(summary.raced, split, optimum, worst) for summary in summaries if summary.raced}

    def draw(axes: Axes) -> None:
        values: list[float] = []
        for name, (shares, low, middle, high) in curves.items():
            axes.fill_between(shares, low, high, color=colours[name], alpha=0.18, linewidth=0)
            axes.plot(shares, middle, color=colours[name], linewidth=1.6)
            values += list(middle)
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
        axes.set_xlabel("share of the training")
        axes.set_ylabel(label)
        set_scale(axes, "y", values)

    return render_svg(f"{label} along the training", 4.6, 3.1, draw)


def _quartiles(race: Sequence[TrialRecord], split: str, optimum: float | None, worst: float) -> tuple[np.ndarray, ...]:
    """Return (share of the training in percent, lower quartile, median, upper quartile) over all seeds.

    A diverged loss counts as infinitely bad, and a quartile that is infinite is a gap. A training that stopped early
    keeps its last value.
    """
    runs = [entry.result.evaluations for entry in race if entry.result.evaluations]
    if not runs:
        return (np.empty(0),) * 4
    longest = max(runs, key=lambda evaluations: evaluations[-1].step)
    values = np.array(
        [
            [
                distance_to_optimum(getattr(run[min(index, len(run) - 1)], split), optimum)
                for index in range(len(longest))
            ]
            for run in runs
        ]
    )
    values[~np.isfinite(values)] = worst
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0, method="inverted_cdf")
    for quartile in (low, middle, high):
        quartile[np.isinf(quartile)] = np.nan
    steps = np.array([evaluation.step for evaluation in longest], dtype=float)
    return 100 * steps / max(steps[-1], 1), low, middle, high


def learning_rate_chart(
    summary: Summary,
    colour: str,
    split: str,
    label: str,
    limits: tuple[float, float] | None,
    *,
    optimum: float | None = None,
    maximize: bool = False,
) -> Markup:
    """Draw the value of each setting that one contender searched against its learning rate; a ring marks the chosen."""
    entries = [entry for entry in summary.trials["search"] if "lr" in entry.settings]
    entries = [entry for entry in entries if entry.result.status != "pruned"]
    points = [
        (entry.settings["lr"], distance_to_optimum(loss_of(entry.result, split), optimum), entry.settings)
        for entry in entries
    ]
    chosen_settings = {name: summary.settings[name] for name in summary.searched}

    def draw(axes: Axes) -> None:
        finite = [(lr, loss) for lr, loss, _ in points if math.isfinite(loss)]
        axes.plot(*_columns(finite), "o", color=colour, markersize=4, alpha=0.6)
        chosen = [(lr, loss) for lr, loss, settings in points if math.isfinite(loss) and settings == chosen_settings]
        axes.plot(*_columns(chosen), "o", markersize=10, mfc="none", mec=INK, mew=1.3)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        set_scale(axes, "y", limits or (), limits)
        bottom, top = axes.get_ylim()
        edge = bottom if maximize else top
        beyond = [lr for lr, loss in finite if (loss < bottom if maximize else loss > top)]
        arrow = "v" if maximize else "^"
        axes.plot(beyond, [edge] * len(beyond), arrow, color=colour, markersize=4, alpha=0.6, clip_on=False)
        lost = [lr for lr, loss, _ in points if not math.isfinite(loss)]
        axes.plot(lost, [edge] * len(lost), "x", color=INK, markersize=5, alpha=0.6, clip_on=False)
        axes.set_xlabel("learning rate")
        axes.set_title(shorten(summary.name, MAX_NAME), loc="left", fontsize=10, color=INK)

    return render_svg(f"{label} against learning rate, {summary.name}", 3.4, 2.5, draw)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def shared_loss_range(
    summaries: Sequence[Summary], split: str, *, optimum: float | None = None, maximize: bool = False
) -> tuple[float, float] | None:
    """Return the range of values that all learning rate charts show, or None if no value can be drawn.

    The range ends at ten times the median, so that a few very bad settings do not flatten all others. If not all values
    are positive, it ends at ten times the distance of the median from the best.
    """
    losses = [
        distance_to_optimum(loss_of(entry.result, split), optimum)
        for summary in summaries
        for entry in summary.trials["search"]
    ]
    finite = sorted(loss for loss in losses if abs(loss) < MAX_DRAWN)
    if not finite:
        return None
    if finite[0] == finite[-1]:
        room = max(1.0, 0.1 * abs(finite[0]))
        return finite[0] - room, finite[0] + room
    positive = [loss for loss in finite if loss > 0]
    if not maximize and len(positive) == len(finite) and finite[-1] > 10 * finite[0]:
        return finite[0] / 1.5, min(finite[-1], 10 * finite[len(finite) // 2]) * 1.5
    best, median = finite[-1] if maximize else finite[0], finite[len(finite) // 2]
    farthest = best + 10 * ((median - best) or (finite[0] - finite[-1] if maximize else finite[-1] - finite[0]))
    return (max(finite[0], farthest), best) if maximize else (best, min(finite[-1], farthest))


def set_scale(axes: Axes, which: str, values: Sequence[float], limits: tuple[float, float] | None = None) -> None:
    """Use a logarithmic axis if the values span a factor above five, with plain numbers as labels."""
    finite = [value for value in values if math.isfinite(value)]
    axis = axes.xaxis if which == "x" else axes.yaxis
    positive = [value for value in finite if value > 0]
    if positive and max(finite) > 5 * min(positive) and len(positive) > len(finite) / 2:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log", nonpositive="clip")
        decades = math.log10(max(positive) / min(positive))
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.2 else (1.0,), numticks=7))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
    else:
        axis.set_major_locator(MaxNLocator(6))
        # Use so many digits that neighbouring ticks have different labels.
        largest, span = max(map(abs, finite), default=1.0), max(finite, default=1.0) - min(finite, default=0.0)
        ratio = largest / span if span > 0 else 1.0
        num_digits = max(3, 2 + math.ceil(math.log10(ratio))) if 0 < ratio < math.inf else 3
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value, num_digits)))
    if limits:
        low, high = limits
        room = 0.05 * (high - low) if axis.get_scale() == "linear" else 0.0
        (axes.set_xlim if which == "x" else axes.set_ylim)(low - room, high + room)
