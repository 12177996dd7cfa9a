"""The figure of a picture: contours with paths on one side, the height against the step on the other."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from thalweg.report.charts import format_number, shorten
from thalweg.report.colours import LIGHT
from thalweg.report.pictures.contours import draw_contours, draw_path, draw_start, drawable, end_in_frame
from thalweg.report.pictures.labels import label_ends, spread, text_width
from thalweg.report.pictures.style import FONT_SIZE, MAX_NAME, ON_PAPER, Colours, picture_style
from thalweg.trajectories import OptimizerPaths, Trajectories

WIDE, NARROW = 9.6, 4.0  # inches
_FLOOR = 1e-12  # of the curve of a height above the minimum: below it is rounding
_LINE = FONT_SIZE * 1.3 / 72  # inches


class Picture(Figure):
    """A figure of matplotlib that a notebook shows by itself, also without pyplot.

    Attributes:
        trajectories: The paths that it shows.
    """

    trajectories: Trajectories | None = None

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=120)
        return buffer.getvalue()


@dataclass(frozen=True)
class Layout:
    """The places of the axes in a picture, in inches from the lower left.

    Attributes:
        width: Width of the picture.
        height: Height of the picture.
        contours: Left, bottom, width and height of the contours.
        curves: The same of the curves.
        is_narrow: True if the curves are below the contours.
    """

    width: float
    height: float
    contours: tuple[float, float, float, float]
    curves: tuple[float, float, float, float]
    is_narrow: bool

    def add_axes(self, figure: Figure, place: tuple[float, float, float, float]) -> Axes:
        """Add axes at a place."""
        left, bottom, width, height = place
        return figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))


def layout_of(trajectories: Trajectories, *, narrow: bool) -> Layout:
    """Return the layout of a picture, whose contours have the same scale in both directions.

    Args:
        trajectories: The paths.
        narrow: True for a picture that is readable at the width of a phone.
    """
    surface = trajectories.surface
    aspect = (surface.y[1] - surface.y[0]) / (surface.x[1] - surface.x[0])
    labels = 0.2 + max(text_width(text) for paths in trajectories.optimizers for text in label_of(paths, trajectories))
    labels = 0.2 + (labels / 72 if labels else 0)
    bottom = 0.5 + _LINE * len(notes_of(trajectories))
    top = 0.55
    if narrow:
        width = NARROW - 0.6
        height = width * aspect
        curve_height = max(1.9, 2 * _LINE * len(trajectories.optimizers))
        total = bottom + curve_height + 0.95 + height + top
        return Layout(
            NARROW,
            total,
            (0.45, bottom + curve_height + 0.95, width, height),
            (0.6, bottom, NARROW - 0.7 - labels, curve_height),
            True,
        )
    size = 4.2
    width, height = (size, size * aspect) if aspect <= 1 else (size / aspect, size)
    total = bottom + height + top
    left = 0.45 + width + 0.85
    return Layout(WIDE, total, (0.45, bottom, width, height), (left, bottom, WIDE - left - 0.1 - labels, height), False)


def label_of(paths: OptimizerPaths, trajectories: Trajectories) -> tuple[str, str]:
    """Return the two lines beside the curve of an optimizer: its name, and learning rate and result."""
    rate = f"lr {format_number(paths.lr)}"
    lost = [trajectory.diverged_at for trajectory in paths.trajectories if trajectory.diverged_at is not None]
    if lost:
        first = "diverged at step" if len(paths.trajectories) == 1 else f"{len(lost)} diverged, first at step"
        return shorten(paths.name, MAX_NAME), f"{rate}, {first} {min(lost)}"
    return shorten(paths.name, MAX_NAME), f"{rate}, ends at {format_number(_mean_gap(paths, trajectories), 2)}"


def _mean_gap(paths: OptimizerPaths, trajectories: Trajectories) -> float:
    gaps = [trajectories.gap(trajectory.final_height) for trajectory in paths.trajectories]
    return math.fsum(gaps) / len(gaps)


def title_of(trajectories: Trajectories) -> str:
    """Return the title of a picture."""
    noise = f", noise {format_number(trajectories.noise)}" if trajectories.noise else ""
    return f"{trajectories.surface.title}, {trajectories.steps} steps{noise}"


def notes_of(trajectories: Trajectories) -> list[str]:
    """Return the sentences below a picture."""
    notes = []
    matrices = [shorten(paths.name, MAX_NAME) for paths in trajectories.optimizers if paths.is_matrix]
    if matrices:
        notes.append(f"{', '.join(matrices)}: the point is a matrix of one row.")
    at_end = [shorten(paths.name, MAX_NAME) for paths in trajectories.optimizers if paths.is_at_end]
    if at_end:
        notes.append(f"{', '.join(at_end)}: the learning rate is at the end of those tried.")
    return notes


def draw_picture(
    trajectories: Trajectories,
    *,
    narrow: bool = False,
    colours: Colours = ON_PAPER,
    palette: Sequence[str] = LIGHT,
    with_paths: bool = True,
) -> Picture:
    """Return the picture of trajectories as a figure.

    Args:
        trajectories: The paths.
        narrow: True for a picture that is readable at the width of a phone.
        colours: The colours of all but the paths.
        palette: A colour for each optimizer.
        with_paths: False leaves out paths, curves and their labels.
    """
    layout = layout_of(trajectories, narrow=narrow)
    with picture_style(colours, title_of(trajectories)), np.errstate(all="ignore"):
        figure = Picture(figsize=(layout.width, layout.height))
        figure.trajectories = trajectories
        contours = layout.add_axes(figure, layout.contours)
        curves = layout.add_axes(figure, layout.curves)
        _draw_plane(contours, trajectories, colours, palette, with_paths)
        _draw_curves(curves, trajectories, colours, palette, with_paths)
        texts = ((0.45, layout.height - 0.3, title_of(trajectories), "bold"),)
        for left, bottom, text, weight in texts:
            figure.text(left / layout.width, bottom / layout.height, text, fontweight=weight, color=colours.ink)
        for row, note in enumerate(reversed(notes_of(trajectories))):
            figure.text(0.45 / layout.width, (0.06 + _LINE * row) / layout.height, note, color=colours.soft)
    return figure


def _draw_plane(
    axes: Axes, trajectories: Trajectories, colours: Colours, palette: Sequence[str], with_paths: bool
) -> None:
    surface = trajectories.surface
    draw_contours(axes, surface, colours)
    for start in trajectories.starts:
        draw_start(axes, start, colours)
    if not with_paths:
        return
    ends, texts, paths = [], [], []
    for place, optimizer in enumerate(trajectories.optimizers):
        for trajectory in optimizer.trajectories:
            draw_path(axes, trajectory, surface, palette[place % len(palette)], colours, dashed=False)
            paths.append(drawable(surface, trajectory.points))
            ends.append(end_in_frame(surface, trajectory.points)[0])
            texts.append(shorten(optimizer.name, MAX_NAME))
    label_ends(axes, ends, texts, paths, colours)


def _draw_curves(
    axes: Axes, trajectories: Trajectories, colours: Colours, palette: Sequence[str], with_paths: bool
) -> None:
    known = trajectories.surface.best is not None
    gaps = [
        [gap_on_axis(trajectories, height) for height in trajectory.heights]
        for optimizer in trajectories.optimizers
        for trajectory in optimizer.trajectories
    ]
    finite = [gap for path in gaps for gap in path if math.isfinite(gap)]
    starts = [path[0] for path in gaps]
    highest = min(max(finite), 30 * max(starts)) if known else max(finite)
    lowest = min(finite)
    if known:
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.6, highest * 1.6)
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
    if with_paths:
        _draw_lines(axes, trajectories, colours, palette)


def _draw_lines(axes: Axes, trajectories: Trajectories, colours: Colours, palette: Sequence[str]) -> None:
    low, high = axes.get_ylim()
    ends = []
    for place, optimizer in enumerate(trajectories.optimizers):
        colour = palette[place % len(palette)]
        for trajectory in optimizer.trajectories:
            gaps = [gap_on_axis(trajectories, height) for height in trajectory.heights]
            axes.plot(range(len(gaps)), gaps, color=colour, linewidth=1.5, zorder=4)
            lost = trajectory.diverged_at is not None
            end = len(gaps) - 1, min(max(gaps[-1], low), high)
            mark = "X" if lost else "o"
            axes.plot(*end, mark, color=colour, mec=colours.paper, mew=1.0, markersize=8, zorder=7, clip_on=False)
        ends.append((end, place))
    scale = 72 / axes.figure.dpi
    to_points: Callable[..., np.ndarray] = axes.transData.transform
    frame = axes.get_window_extent()
    placed = sorted((scale * float(to_points(end)[1]), place, end) for end, place in ends)
    line = 1.3 * FONT_SIZE
    bottom, top = scale * frame.y0 + line, scale * frame.y1 - line
    heights = spread([place[0] for place in placed], 2.15 * line, bottom, top)
    right = scale * frame.x1 + 14
    for height, (_, place, end) in zip(heights, placed, strict=True):
        name, result = label_of(trajectories.optimizers[place], trajectories)
        colour = palette[place % len(palette)]
        x, y = (scale * part for part in to_points(end))
        axes.annotate(
            "",
            end,
            (right - 2 - x, height - y),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 5},
            annotation_clip=False,
            zorder=5,
        )
        for text, shift, ink, weight in ((name, 1, colours.ink, "bold"), (result, -line + 1, colours.soft, "normal")):
            axes.annotate(
                text,
                end,
                (right - x, height + shift - y),
                textcoords="offset points",
                color=ink,
                fontweight=weight,
                annotation_clip=False,
            )


def gap_on_axis(trajectories: Trajectories, height: float) -> float:
    """Return the height above the minimum as the curves show it: at least what is not rounding."""
    gap = trajectories.gap(height)
    return gap if trajectories.surface.best is None else max(gap, _FLOOR)
