"""The figure of a picture: contours with paths on one side, the height against the step on the other."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from thalweg.report.charts.theme import FONT_SIZE, LIGHT, ON_PAPER, Colours, drawing_style
from thalweg.report.numbers import format_number, shorten
from thalweg.report.pictures.contours import draw_contours, draw_path, draw_start
from thalweg.report.pictures.curves import draw_curves, set_curve_axes
from thalweg.report.pictures.labels import MAX_NAME, label_ends, text_width
from thalweg.report.pictures.trail import Trail
from thalweg.trajectories import OptimizerPaths, Trajectories

WIDE, NARROW = 9.6, 3.5  # inches
LINE = FONT_SIZE * 1.3 / 72  # inches, of a line of text
_SIZE, _LEFT, _TOP = 4.2, 0.4, 0.4  # inches: the longer side of the contours, and the room beside and above them


class Picture(Figure):
    """A figure of matplotlib that a notebook shows by itself, also without pyplot.

    Attributes:
        trajectories: The paths that it shows.
        trails: The paths and the curves.
        end_labels: The labels at the ends of the paths.
        frame: The axes of the contours.
    """

    trajectories: Trajectories
    trails: list[Trail]
    end_labels: list[Annotation]
    frame: Axes

    def show_step(self, step: int) -> None:
        """Show all paths up to a step. The labels at their ends are shown at the last step alone.

        Args:
            step: The step.
        """
        for trail in self.trails:
            trail.show(step)
        for label in self.end_labels:
            label.set_visible(step >= self.trajectories.steps)

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
    """

    width: float
    height: float
    contours: tuple[float, float, float, float]
    curves: tuple[float, float, float, float]

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
    texts = [label_of(paths, trajectories, narrow=narrow) for paths in trajectories.optimizers]
    labels = 0.3 + max(max(text_width(name, bold=True), text_width(result)) for name, result in texts) / 72
    bottom = 0.55 + LINE * len(notes_of(trajectories))
    if narrow:
        width = NARROW - _LEFT - 0.1
        height = width * aspect
        curve_height = max(1.9, 2 * LINE * len(trajectories.optimizers))
        plane = (_LEFT, bottom + curve_height + 0.75, width, height)
        curves = (0.6, bottom, NARROW - 0.6 - labels, curve_height)
        return Layout(NARROW, plane[1] + height + _TOP, plane, curves)
    width, height = (_SIZE, _SIZE * aspect) if aspect <= 1 else (_SIZE / aspect, _SIZE)
    left = _LEFT + width + 0.85
    return Layout(
        WIDE, bottom + height + _TOP, (_LEFT, bottom, width, height), (left, bottom, WIDE - left - labels, height)
    )


def label_of(paths: OptimizerPaths, trajectories: Trajectories, *, narrow: bool) -> tuple[str, str]:
    """Return the two lines beside the curve of an optimizer: its name, and learning rate and result."""
    name = shorten(paths.name, 14 if narrow else MAX_NAME)
    rate = f"lr {format_number(paths.lr)}"
    lost = [trajectory.diverged_at for trajectory in paths.trajectories if trajectory.diverged_at is not None]
    if lost:
        return name, f"diverged, step {min(lost)}" if narrow else f"{rate}, diverged at step {min(lost)}"
    return name, rate if narrow else f"{rate}, ends at {format_number(mean_gap(paths, trajectories), 2)}"


def mean_gap(paths: OptimizerPaths, trajectories: Trajectories) -> float:
    """Return the mean height of the ends of the paths above the minimum."""
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
        notes.append(f"{', '.join(matrices)}: the point is a 1 × 2 matrix.")
    at_end = [shorten(paths.name, MAX_NAME) for paths in trajectories.optimizers if paths.is_at_end]
    if at_end:
        notes.append(f"{', '.join(at_end)}: lr is at the end of its range.")
    return notes


def draw_picture(
    trajectories: Trajectories,
    *,
    narrow: bool = False,
    colours: Colours = ON_PAPER,
    palette: Sequence[str] = LIGHT,
) -> Picture:
    """Return the picture of trajectories as a figure.

    Args:
        trajectories: The paths.
        narrow: True for a picture that is readable at the width of a phone.
        colours: The colours of all but the paths.
        palette: A colour for each optimizer.
    """
    layout = layout_of(trajectories, narrow=narrow)
    with drawing_style(colours, title_of(trajectories)), np.errstate(all="ignore"):
        figure = Picture(figsize=(layout.width, layout.height))
        figure.trajectories, figure.trails = trajectories, []
        figure.frame = layout.add_axes(figure, layout.contours)
        curves = layout.add_axes(figure, layout.curves)
        _draw_plane(figure, colours, palette)
        set_curve_axes(curves, trajectories, colours)
        labels = [label_of(paths, trajectories, narrow=narrow) for paths in trajectories.optimizers]
        figure.trails += draw_curves(curves, trajectories, colours, palette, labels)
        for row, note in enumerate(reversed(notes_of(trajectories))):
            figure.text(_LEFT / layout.width, (0.06 + LINE * row) / layout.height, note, color=colours.soft)
        left, _, _, height = layout.contours
        top = layout.contours[1] + height + 0.1
        figure.text(
            left / layout.width,
            top / layout.height,
            title_of(trajectories),
            fontweight="bold",
            color=colours.ink,
        )
    return figure


def _draw_plane(figure: Picture, colours: Colours, palette: Sequence[str]) -> None:
    """Draw the contours with the paths."""
    trajectories, axes = figure.trajectories, figure.frame
    surface = trajectories.surface
    draw_contours(axes, surface, colours)
    for start in trajectories.starts:
        draw_start(axes, start, colours)
    texts = []
    for place, optimizer in enumerate(trajectories.optimizers):
        for trajectory in optimizer.trajectories:
            colour = palette[place % len(palette)]
            figure.trails.append(draw_path(axes, trajectory, surface, colour, colours, dashed=False))
            texts.append(shorten(optimizer.name, MAX_NAME))
    ends = [trail.end for trail in figure.trails]
    figure.end_labels = label_ends(axes, ends, texts, [trail.points for trail in figure.trails], colours)
