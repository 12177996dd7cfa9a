"""SVG of a picture for a page: the page's colours, and trails that a script can shorten."""

import re
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from thalweg.report.charts.theme import LIGHT, ON_PAGE, drawing_style, no_warnings, svg_for_page, variable
from thalweg.report.numbers import format_number
from thalweg.report.pictures.contours import MAX_DOTS
from thalweg.report.pictures.figure import Picture, draw_picture, title_of
from thalweg.report.pictures.trail import Trail
from thalweg.trajectories import Trajectories

_STAR = "M0-7L1.6-2.2L6.7-2.2L2.5.8L4.1 5.7L0 2.7L-4.1 5.7L-2.5.8L-6.7-2.2L-1.6-2.2Z"
_CROSS = "M-3.4-3.4L3.4 3.4M-3.4 3.4L3.4-3.4"


def svg_of(trajectories: Trajectories, *, narrow: bool) -> Markup:
    """Return the picture of trajectories as SVG for a page, at the last step.

    Each trail is a group of the class ``trail`` whose paths hold one point for each step, so a script can show fewer.
    The heads, of the class ``head``, follow in the same order.

    Args:
        trajectories: The paths.
        narrow: True for the picture of a phone.
    """
    name = "narrow" if narrow else "wide"
    picture = draw_picture(trajectories, narrow=narrow, colours=ON_PAGE)
    for trail in picture.trails:
        trail.hide()
    for k, end_label in enumerate(picture.end_labels):
        end_label.set_gid(f"{name}-end-{k}")
        if end_label.arrow_patch is not None:
            end_label.arrow_patch.set_gid(f"{name}-line-{k}")
    overlay = _overlay(picture, name)
    with drawing_style(ON_PAGE, name), no_warnings():
        svg = str(svg_for_page(picture, alternative_text(trajectories), css_class=name))
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # the page has two pictures, and an id stands once
    svg = re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\.\d)\d+", r"\1", match[0]), svg)
    return Markup(svg.replace("</svg>", f"{overlay}</svg>"))  # noqa: S704  (the texts in it are escaped)


def alternative_text(trajectories: Trajectories) -> str:
    """Return the picture in words, with its values."""
    sentences = [f"{title_of(trajectories)}. Paths over contours, and the height against the step."]
    for paths in trajectories.optimizers:
        for start, trajectory in zip(trajectories.starts, paths.trajectories, strict=True):
            where = f"{paths.name} at learning rate {format_number(paths.lr)}, from {_point(start)}"
            if trajectory.diverged_at is not None:
                sentences.append(f"{where}, diverges at step {trajectory.diverged_at}.")
                continue
            gap = format_number(trajectories.gap(trajectory.final_height))
            above = "at height" if trajectories.surface.best is None else "above the minimum by"
            reached = f", which it reaches at step {trajectory.reached_at}" if trajectory.reached_at is not None else ""
            sentences.append(f"{where}, ends at {_point(trajectory.points[-1])}, {above} {gap}{reached}.")
    return " ".join(sentences)


def _point(point: tuple[float, float]) -> str:
    return f"({format_number(point[0])}, {format_number(point[1])})"


def _overlay(picture: Picture, name: str) -> str:
    """Return the trails as elements of an SVG, clipped to their axes, and above them their heads."""
    to_svg = _Transform(picture)
    clips, lines, heads = [], [], []
    for number, axes in enumerate(picture.axes):
        box = axes.get_window_extent()
        (left, top), (right, bottom) = to_svg.place(box.x0, box.y1), to_svg.place(box.x1, box.y0)
        clips.append(
            f'<clipPath id="{name}-clip-{number}"><rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{bottom - top:.1f}"/></clipPath>'
        )
    for trail in picture.trails:
        lines.append(_lines(trail, to_svg, f"{name}-clip-{picture.axes.index(trail.axes)}", picture.frame))
        heads.append(_head(trail, to_svg))
    return "".join([*clips, *lines, *_marks(picture, to_svg), *heads])


def _marks(picture: Picture, to_svg: "_Transform") -> list[str]:
    """Return the minima and the starts once more, above the lines."""
    trajectories = picture.trajectories
    minima, starts = (
        to_svg.texts(picture.frame, points) if points else []
        for points in (trajectories.surface.minima, trajectories.starts)
    )
    stars = [f'<path class="star" transform="translate({place}) scale(1.3)" d="{_STAR}"/>' for place in minima]
    rings = [f'<circle class="ring" transform="translate({place})" r="3"/>' for place in starts]
    return stars + rings


class _Transform:
    """Turns points of axes into places in the SVG, whose vertical axis points down."""

    def __init__(self, picture: Picture) -> None:
        self._height = 72 * picture.get_figheight()
        self._scale = 72 / picture.dpi

    def place(self, x: float, y: float) -> tuple[float, float]:
        return self._scale * x, self._height - self._scale * y

    def texts(self, axes: Axes, points: Sequence[tuple[float, float]]) -> list[str]:
        """Return the places of points of axes, each as ``x y``."""
        places = (self.place(x, y) for x, y in axes.transData.transform(list(points)).tolist())
        return [f"{x:.1f} {y:.1f}" for x, y in places]


def _lines(trail: Trail, to_svg: _Transform, clip: str, frame: Axes) -> str:
    """Return halo, line and dots of a trail; a curve has the line alone."""
    places = to_svg.texts(trail.axes, trail.points)
    line, colour = "M" + "L".join(places), _colour(trail)
    elements = [f'<path class="line" d="{line}" style="stroke:{colour}"/>']
    if trail.axes is frame:
        elements.insert(0, f'<path class="halo" d="{line}"/>')
        if len(places) <= MAX_DOTS:
            dots = "".join(f"M{place}h0" for place in places)
            elements.append(f'<path class="dots" d="{dots}" style="stroke:{colour}"/>')
    return f'<g class="trail" clip-path="url(#{clip})">{"".join(elements)}</g>'


def _head(trail: Trail, to_svg: _Transform) -> str:
    """Return the mark at the end of a trail."""
    (end,) = to_svg.texts(trail.axes, [trail.end])
    lost = trail.mark == "X"
    return (
        f'<g class="head" transform="translate({end})" data-end="{end}" data-lost="{int(lost)}">'
        f'<circle r="4" style="fill:{_colour(trail)}"/><path class="cross{"" if lost else " off"}" d="{_CROSS}"/></g>'
    )


def _colour(trail: Trail) -> str:
    return variable(LIGHT.index(trail.colour))
