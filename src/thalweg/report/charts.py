"""Charts: stored results to SVG, by matplotlib, to stand inside a page.

Text stays text and takes the page's font; ink and grid take the page's colours, so that a dark page has light charts.
"""

import html
import io
import math
import re
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
from thalweg.comparison.results.summary import Summary

# Told apart with any kind of colour vision (after Okabe & Ito 2008), dark and light page alike.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f6fd1", "#8a7a3a", "#c2455c", "#7f8c8d")

FLOAT32_RESOLUTION = 2**-24

# Two colours that the page replaces by its own.
_INK, _GRID = "#010203", "#040506"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


def drawn(title: str, width: float, height: float, draw: Callable[[Axes], None]) -> Markup:
    """An SVG of one chart, in inches; `title` is what a screen reader says."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r' xmlns(:\w+)?="[^"]*"', "", svg
    )  # an SVG inside HTML needs none, and a page without addresses has none
    svg = re.sub(r'width="[^"]*pt" height="[^"]*pt"', "", svg, count=1)
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
    return Markup(svg)  # noqa: S704  (matplotlib escapes what it draws)


def number(value: float, shown: int = 3) -> str:
    """A number as short as can be read: 0.00012, 0.034, 12, 1.2e-09; of so many digits."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.{shown}g}" if value == 0 or 1e-4 <= abs(value) < 1e5 else f"{value:.2g}"


def digits(value: float) -> str:
    """A number to three digits, all of them shown: 0.0800, 12.0."""
    return f"{value:#.3g}".rstrip(".") if 1e-4 <= abs(value) < 1e5 else number(value)


def standings(
    summaries: Sequence[Summary], colours: Mapping[str, str], label: str, *, optimum: float | None = None
) -> Markup:
    """A dot for each contender's value and a line for its interval, the best on top.

    Where the optimum is known, what is drawn is the distance to it.
    """
    shown = [summary for summary in summaries if math.isfinite(summary.value.mean)]
    ends = [[above(getattr(one.value, end), optimum) for end in ("low", "mean", "high")] for one in shown]
    return intervals(
        {one.name: (low, mean, high) for one, (low, mean, high) in zip(shown, ends, strict=True)}, colours, label
    )


def intervals(found: Mapping[str, tuple[float, float, float]], colours: Mapping[str, str], label: str) -> Markup:
    """A dot for each name at the middle of (low, middle, high), a line from low to high, and a band for the first."""

    def draw(axes: Axes) -> None:
        for row, (name, (low, middle, high)) in enumerate(found.items()):
            end = high if math.isfinite(high) else middle
            axes.plot([low, end], [row, row], color=colours[name], alpha=0.35, linewidth=4, solid_capstyle="round")
            axes.plot([middle], [row], "o", color=colours[name], markersize=7)
        for low, _, high in list(found.values())[:1]:
            if math.isfinite(high):  # a bound has no upper end
                axes.axvspan(low, high, color=_INK, alpha=0.07, linewidth=0)
        axes.set_yticks(range(len(found)), list(found))
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(label)
        _scale(axes, "x", [value for ends in found.values() for value in ends])

    return drawn(f"{label} of each contender", 5.2, 0.8 + 0.3 * max(1, len(found)), draw)


def profiles(found: Aggregate, colours: Mapping[str, str]) -> Markup:
    """For each contender the share of runs that are no worse than so many times the best, with its band."""

    def draw(axes: Axes) -> None:
        for name, one in found.profiles.items():
            low, high = (100 * np.asarray(end) for end in (one.low, one.high))
            axes.fill_between(found.ratios, low, high, color=colours[name], alpha=0.14, linewidth=0, step="post")
            share = 100 * np.asarray(one.share)
            axes.plot(found.ratios, share, color=colours[name], linewidth=1.8, drawstyle="steps-post")
        axes.set_xlim(1, found.ratios[-1])
        axes.set_ylim(-2, 102)
        axes.set_xlabel("loss ÷ that of the best contender of the task")
        axes.set_ylabel("share of runs")
        _scale(axes, "x", found.ratios)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))

    return drawn("Share of runs within a ratio to the best", 5.2, 3.3, draw)


def above(loss: float, optimum: float | None) -> float:
    """The distance to the optimum, no less than float32 can tell; the loss itself where no optimum is known."""
    return loss if not optimum else max(loss - optimum, FLOAT32_RESOLUTION * abs(optimum))


def learning_curves(
    summaries: Sequence[Summary], colours: Mapping[str, str], split: str, label: str, *, optimum: float | None = None
) -> Markup:
    """Median loss along the training over the seeds of the race, with a band between the quartiles.

    Where the optimum is given, what is drawn is the distance to it.
    """
    curves = {summary.name: _curve(summary.trials["race"], split, optimum) for summary in summaries}

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
        _scale(axes, "y", values)

    return drawn(f"{label} along the training", 4.6, 3.1, draw)


def _curve(raced: Sequence[TrialRecord], split: str, optimum: float | None) -> tuple[np.ndarray, ...]:
    """(share of the training in percent, lower quartile, median, upper quartile) over all seeds.

    What diverged counts as infinite, and leaves a gap where a quartile is; a training that stopped early keeps its
    last value.
    """
    runs = [entry.result.evaluations for entry in raced if entry.result.evaluations]
    if not runs:
        return (np.empty(0),) * 4
    longest = max(runs, key=lambda looks: looks[-1].step)
    values = np.array(
        [[above(getattr(run[min(at, len(run) - 1)], split), optimum) for at in range(len(longest))] for run in runs]
    )
    values[np.isnan(values)] = np.inf
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0, method="inverted_cdf")
    for quartile in (low, middle, high):
        quartile[np.isinf(quartile)] = np.nan
    steps = np.array([look.step for look in longest], dtype=float)
    return 100 * steps / max(steps[-1], 1), low, middle, high


def learning_rates(
    summary: Summary,
    colour: str,
    split: str,
    label: str,
    limits: tuple[float, float] | None,
    *,
    optimum: float | None = None,
) -> Markup:
    """Loss against learning rate for each setting that one contender searched; the chosen one has a ring."""
    entries = [entry for entry in summary.trials["search"] if "lr" in entry.settings]
    entries = [entry for entry in entries if entry.result.status != "pruned"]
    points = [(entry.settings["lr"], above(loss_of(entry.result, split), optimum), entry.settings) for entry in entries]

    def draw(axes: Axes) -> None:
        fine = [point for point in points if math.isfinite(point[1])]
        axes.plot(
            [point[0] for point in fine], [point[1] for point in fine], "o", color=colour, markersize=4, alpha=0.6
        )
        chosen = [point for point in fine if point[2] == {name: summary.settings[name] for name in summary.searched}]
        axes.plot([p[0] for p in chosen], [p[1] for p in chosen], "o", markersize=10, mfc="none", mec=_INK, mew=1.3)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_minor_formatter(NullFormatter())
        _scale(axes, "y", limits or (), limits)
        top = axes.get_ylim()[1]
        beyond = [point[0] for point in fine if point[1] > top]
        axes.plot(beyond, [top] * len(beyond), "^", color=colour, markersize=4, alpha=0.6, clip_on=False)
        lost = [point[0] for point in points if not math.isfinite(point[1])]
        axes.plot(lost, [top] * len(lost), "x", color=_INK, markersize=5, alpha=0.6, clip_on=False)
        axes.set_xlabel("learning rate")
        axes.set_title(summary.name, loc="left", fontsize=10, color=_INK)

    return drawn(f"{label} against learning rate, {summary.name}", 3.4, 2.5, draw)


def limits_of(summaries: Sequence[Summary], split: str, *, optimum: float | None = None) -> tuple[float, float] | None:
    """The range of losses that the charts of learning rates share; None where nothing is finite.

    It ends at ten times the median, so that a few settings that went astray do not flatten all others.
    """
    losses = [above(loss_of(entry.result, split), optimum) for one in summaries for entry in one.trials["search"]]
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    if not finite:
        return None
    if finite[0] == finite[-1]:
        return finite[0] - 1, finite[0] + 1
    positive = [loss for loss in finite if loss > 0]
    if len(positive) == len(finite) and finite[-1] > 10 * finite[0]:
        return finite[0] / 1.5, min(finite[-1], 10 * finite[len(finite) // 2]) * 1.5
    return finite[0], finite[-1]


def _scale(axes: Axes, which: str, values: Sequence[float], limits: tuple[float, float] | None = None) -> None:
    """A logarithmic axis where the values span a factor of five or more, with plain numbers beside it."""
    finite = [value for value in values if math.isfinite(value)]
    axis = axes.xaxis if which == "x" else axes.yaxis
    positive = [value for value in finite if value > 0]
    if positive and max(finite) > 5 * min(positive) and len(positive) > len(finite) / 2:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log", nonpositive="clip")
        decades = math.log10(max(positive) / min(positive))
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.2 else (1.0,), numticks=7))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    else:
        axis.set_major_locator(MaxNLocator(6))
        # Neighbouring ticks differ in what is shown of them.
        largest, span = max(map(abs, finite), default=1.0), max(finite, default=1.0) - min(finite, default=0.0)
        shown = max(3, 2 + math.ceil(math.log10(largest / span))) if largest > 0 and span > 0 else 3
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, shown)))
    if limits:
        low, high = limits
        room = 0.05 * (high - low) if axis.get_scale() == "linear" else 0.0
        (axes.set_xlim if which == "x" else axes.set_ylim)(low - room, high + room)
