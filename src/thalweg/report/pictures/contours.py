"""Contours of a surface, and the paths on them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator

from thalweg.report.charts.theme import Colours
from thalweg.report.pictures.trail import Trail
from thalweg.trajectories import Surface, Trajectory
from thalweg.trajectories.surfaces import Point

_RESOLUTION = 140  # points of the grid of heights, in each direction
_LEVELS = 15
_DEEPEST = 1e-6  # the lowest contour, as a share of the largest gap in the frame
_MAX_ALPHA = 0.34
MAX_DOTS = 121  # points of a path that each get a dot


def draw_contours(axes: Axes, surface: Surface, colours: Colours) -> None:
    """Draw contours, evenly spaced in the logarithm of the height above the lowest point, and the minima.

    Args:
        axes: The axes.
        surface: The surface.
        colours: The colours.
    """
    x, y = (np.linspace(*ends, _RESOLUTION) for ends in (surface.x, surface.y))
    columns, rows = np.meshgrid(x, y)
    points = torch.from_numpy(np.stack([columns, rows], -1))
    heights = surface.height(points).detach().numpy()
    finite = heights[np.isfinite(heights)]
    lowest = surface.best if surface.best is not None else float(finite.min())
    gaps = np.where(np.isfinite(heights), heights - lowest, np.nan)
    highest = float(np.nanmax(gaps))
    if highest > 0:
        deepest = max(float(np.nanquantile(gaps, 0.002)), _DEEPEST * highest)
        levels = np.geomspace(deepest, highest, _LEVELS)
        shades = [to_rgba(colours.height, _MAX_ALPHA * (k + 1) / _LEVELS) for k in range(_LEVELS - 1)]
        axes.contourf(columns, rows, gaps, levels=levels, colors=shades)
        axes.contour(columns, rows, gaps, levels=levels[:-1], colors=[to_rgba(colours.height, 0.55)], linewidths=0.5)
    axes.set_xlim(*surface.x)
    axes.set_ylim(*surface.y)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(visible=False)
    for minimum in surface.minima:
        axes.plot(*minimum, "*", color=colours.ink, mec=colours.paper, mew=0.6, markersize=18, zorder=6.5)


def draw_start(axes: Axes, start: Point, colours: Colours) -> None:
    """Draw the start of paths."""
    axes.plot(*start, "o", mfc=colours.paper, mec=colours.ink, mew=1.3, markersize=6, zorder=6)


def draw_path(axes: Axes, path: Trajectory, surface: Surface, colour: str, colours: Colours, dashed: bool) -> Trail:
    """Draw a path: a dot for each step if there is room, and a mark at its end; a cross if it diverges.

    Args:
        axes: The axes.
        path: The path.
        surface: The surface.
        colour: The colour of the path.
        colours: The other colours.
        dashed: True draws a reference: a dashed line without dots.
    """
    points = drawable(surface, path.points)
    style = (0, (4, 2)) if dashed else "-"
    dot = "." if len(points) <= MAX_DOTS and not dashed else None
    lines = (
        *axes.plot([], [], color=colours.paper, linewidth=3.2, alpha=0.65, zorder=3.5),
        *axes.plot([], [], color=colour, linewidth=1.4, linestyle=style, markersize=3.5, zorder=4, marker=dot),
    )
    end, inside = end_in_frame(surface, path.points)
    mark = "X" if path.diverged_at is not None else "o" if inside else "D"
    return Trail(axes, points, end, mark, colour, lines, colours)


def drawable(surface: Surface, points: Sequence[Point]) -> list[Point]:
    """Return points without the extreme ones, which leave no room for arithmetic: at most 20 diagonals away."""
    far = 20 * surface.diagonal
    center = surface.center
    return [
        (min(max(x, center[0] - far), center[0] + far), min(max(y, center[1] - far), center[1] + far))
        for x, y in points
    ]


def end_in_frame(surface: Surface, points: Sequence[Point]) -> tuple[Point, bool]:
    """Return the end of a path and True; if it is out of the frame, the place where the path left the frame, and False.

    Args:
        surface: The surface with its frame.
        points: The points of the path.
    """
    if surface.holds(points[-1]):
        return points[-1], True
    inside = [k for k, point in enumerate(points) if surface.holds(point)]
    if not inside:
        (x, y), ((left, right), (low, high)) = points[-1], (surface.x, surface.y)
        return (min(max(x, left), right), min(max(y, low), high)), False
    return _crossing(surface, points[inside[-1]], points[inside[-1] + 1]), False


def _crossing(surface: Surface, inner: Point, outer: Point) -> Point:
    """Return the point at which the line from a point inside the frame to one outside crosses the frame."""
    share = 1.0
    for k, (low, high) in enumerate((surface.x, surface.y)):
        if outer[k] != inner[k]:
            border = high if outer[k] > inner[k] else low
            reached = (border - inner[k]) / (outer[k] - inner[k])
            if 0 <= reached < share and math.isfinite(reached):
                share = reached
    return inner[0] + share * (outer[0] - inner[0]), inner[1] + share * (outer[1] - inner[1])
