"""Curves: the height against the step, with a label at the end of each."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from thalweg.report.charts.theme import FONT_SIZE, Colours
from thalweg.report.numbers import format_number
from thalweg.report.pictures.labels import spread
from thalweg.report.pictures.trail import Trail
from thalweg.trajectories import Trajectories

FLOOR = 1e-12  # of a height above the minimum: below it is rounding
_LINE = 1.3 * FONT_SIZE
_HIGHEST = 30.0  # times the height of the start: a path that diverges does not flatten the others


def gap_on_axis(trajectories: Trajectories, height: float) -> float:
    """Return the height above the minimum as the curves show it: at least what is not rounding."""
    gap = trajectories.gap(height)
    return gap if trajectories.surface.best is None else max(gap, FLOOR)


def set_curve_axes(axes: Axes, trajectories: Trajectories, colours: Colours) -> None:
    """Set limits, ticks and title: a logarithmic axis if the minimum is known.

    Args:
        axes: The axes.
        trajectories: The paths.
        colours: The colours.
    """
    known = trajectories.surface.best is not None
    paths = [
        [gap_on_axis(trajectories, height) for height in trajectory.heights]
        for optimizer in trajectories.optimizers
        for trajectory in optimizer.trajectories
    ]
    gaps = [gap for path in paths for gap in path if math.isfinite(gap)]
    lowest, highest = min(gaps), max(gaps)
    if known:
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.6, min(highest, _HIGHEST * max(path[0] for path in paths)) * 1.6)
        axes.yaxis.set_major_locator(LogLocator(numticks=7))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.05 * (highest - lowest) or 1.0
        axes.set_ylim(lowest - room, highest + room)
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
    axes.set_xlim(0, trajectories.steps)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(visible=True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("step")
    axes.set_title("height above the minimum" if known else "height", loc="left", color=colours.ink)


def draw_curves(
    axes: Axes,
    trajectories: Trajectories,
    colours: Colours,
    palette: Sequence[str],
    labels: Sequence[tuple[str, str]],
) -> list[Trail]:
    """Draw a curve for each path, and two lines of text for each optimizer, in the order of the ends.

    Args:
        axes: The axes, with their final limits and size.
        trajectories: The paths.
        colours: The colours of all but the curves.
        palette: A colour for each optimizer.
        labels: The two lines of each optimizer.

    Returns:
        The curves.
    """
    low, high = axes.get_ylim()
    trails, ends = [], []
    for place, optimizer in enumerate(trajectories.optimizers):
        colour = palette[place % len(palette)]
        for trajectory in optimizer.trajectories:
            points = [
                (float(step), gap_on_axis(trajectories, height)) for step, height in enumerate(trajectory.heights)
            ]
            end = points[-1][0], min(max(points[-1][1], low), high)
            mark = "X" if trajectory.diverged_at is not None else "o"
            lines = axes.plot([], [], color=colour, linewidth=1.5, zorder=4)
            trails.append(Trail(axes, points, end, mark, colour, lines, colours))
        ends.append(end)
    _label(axes, ends, labels, [palette[place % len(palette)] for place in range(len(ends))], colours)
    return trails


def _label(
    axes: Axes,
    ends: Sequence[tuple[float, float]],
    labels: Sequence[tuple[str, str]],
    palette: Sequence[str],
    colours: Colours,
) -> None:
    """Write labels at the right side, each joined to the end of its curve by a line."""
    scale = 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]  # the axes are in a figure
    to_points: Callable[..., np.ndarray] = axes.transData.transform
    frame = axes.get_window_extent()
    order = sorted(range(len(ends)), key=lambda place: float(to_points(ends[place])[1]))
    wished = [scale * float(to_points(ends[place])[1]) for place in order]
    heights = spread(wished, 2.15 * _LINE, scale * frame.y0 + _LINE, scale * frame.y1 - _LINE)
    right = scale * frame.x1 + 14
    for height, place in zip(heights, order, strict=True):
        x, y = (scale * part for part in to_points(ends[place]))
        axes.annotate(
            "",
            ends[place],
            (right - 2 - x, height - y),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": palette[place], "linewidth": 1.2, "shrinkA": 0, "shrinkB": 5},
            annotation_clip=False,
            zorder=5,
        )
        (name, result), ink = labels[place], (colours.ink, colours.soft)
        for text, shift, colour, weight in ((name, 1.0, ink[0], "bold"), (result, 1 - _LINE, ink[1], "normal")):
            axes.annotate(
                text,
                ends[place],
                (right - x, height + shift - y),
                textcoords="offset points",
                color=colour,
                fontweight=weight,
                annotation_clip=False,
            )
