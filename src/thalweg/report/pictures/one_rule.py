"""The picture of one rule: its paths on two surfaces, beside those of gradient descent and AdamW in grey."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes

from thalweg.registry import WRAPPERS
from thalweg.report.charts.theme import LIGHT, ON_PAPER, Colours, drawing_style
from thalweg.report.numbers import format_number, shorten
from thalweg.report.pictures.contours import draw_contours, draw_path, draw_start, drawable, end_in_frame
from thalweg.report.pictures.figure import Picture, notes_of
from thalweg.report.pictures.labels import MAX_NAME, label_ends
from thalweg.trajectories import Trajectories, Trajectory, trace

SURFACES = ("rosenbrock", "quadratic")
REFERENCES = ("gd", "adamw")
_WIDTH, _BOX, _LEFT, _BOTTOM, _GUTTER = 8.2, 3.5, 0.4, 0.55, 0.55  # inches


@lru_cache(maxsize=32)
def _reference(surface: str, name: str, lr: float | None) -> Trajectory:
    return trace(surface, name, lr=lr).optimizers[0].trajectories[0]


def expression_of(name: str) -> str:
    """Return the expression of a picture: a wrapper alone stands around Adam.

    Example:
        >>> expression_of("cautious"), expression_of("lion")
        ('cautious(adam)', 'lion')
    """
    return f"{name}(adam)" if name in WRAPPERS else name


LearningRates = Mapping[str, Mapping[str, float]]


def rule_picture(name: str, *, lrs: LearningRates | None = None) -> Picture:
    """Return the picture of one rule.

    Args:
        name: A name or an expression: ``adan``, ``cautious(adamw)``. A wrapper alone, ``cautious``, stands around Adam.
        lrs: Learning rates by optimizer and surface, such as ``{"adan": {"rosenbrock": 0.2, "quadratic": 0.5}}``. Those
            that are missing, also of ``gd`` and ``adamw``, are chosen, which takes a second for each.

    Raises:
        UnknownNameError: If no optimizer has this name.
        SettingError: If the optimizer cannot step a single point.

    Example:
        >>> figure = rule_picture("lion", lrs={"lion": {"rosenbrock": 0.02, "quadratic": 0.05}})
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['Rosenbrock, 200 steps, lr 0.02', 'Ill-conditioned quadratic, 100 steps, lr 0.05']
    """
    colours = ON_PAPER
    lrs, name = lrs or {}, expression_of(name)
    traced = [trace(surface, name, lr=lrs.get(name, {}).get(surface)) for surface in SURFACES]
    with drawing_style(colours, name), np.errstate(all="ignore"):
        height = _BOTTOM + _BOX + 0.4
        figure = Picture(figsize=(_WIDTH, height))
        figure.trajectories = traced[0]
        for place, trajectories in enumerate(traced):
            surface = trajectories.surface
            width = _BOX if place == 0 else _WIDTH - _LEFT - _BOX - _GUTTER - 0.1
            aspect = (surface.y[1] - surface.y[0]) / (surface.x[1] - surface.x[0])
            left = _LEFT + place * (_BOX + _GUTTER)
            box_height = min(width * aspect, _BOX)
            axes = figure.add_axes((left / _WIDTH, _BOTTOM / height, width / _WIDTH, box_height / height))
            _draw(axes, trajectories, lrs, colours)
        for note in notes_of(traced[0])[:1]:
            figure.text(_LEFT / _WIDTH, 0.08 / height, note, color=colours.soft)
    return figure


def _draw(axes: Axes, trajectories: Trajectories, lrs: LearningRates, colours: Colours) -> None:
    """Draw the path of the rule on one surface, and those of the references that differ from it."""
    surface, (own,) = trajectories.surface, trajectories.optimizers
    draw_contours(axes, surface, colours)
    ends, texts, paths = [], [], []
    for name in REFERENCES:
        reference = _reference(surface.name, name, lrs.get(name, {}).get(surface.name))
        if reference.points != own.trajectories[0].points:
            draw_path(axes, reference, surface, colours.soft, colours, dashed=True)
            paths.append(drawable(surface, reference.points))
            ends.append(end_in_frame(surface, reference.points)[0])
            texts.append(name)
    draw_path(axes, own.trajectories[0], surface, LIGHT[3], colours, dashed=False)
    paths.append(drawable(surface, own.trajectories[0].points))
    ends.append(end_in_frame(surface, own.trajectories[0].points)[0])
    texts.append(shorten(own.name, MAX_NAME))
    draw_start(axes, trajectories.starts[0], colours)
    label_ends(axes, ends, texts, paths, colours)
    lost = own.trajectories[0].diverged_at
    result = "" if lost is None else f", diverged at step {lost}"
    axes.set_title(
        f"{surface.title}, {trajectories.steps} steps, lr {format_number(own.lr)}{result}",
        loc="left",
        color=colours.ink,
    )
