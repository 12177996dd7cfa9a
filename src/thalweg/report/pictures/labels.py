"""Labels at the ends of paths and curves, placed so that none covers another one."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Annotation

from thalweg.report.charts.theme import FONT_SIZE, Colours

_RADII = (11.0, 20.0, 32.0, 46.0, 62.0, 80.0)  # points from the end to the label
_ANGLES = tuple(2 * math.pi * k / 16 for k in range(16))
MAX_NAME = 22  # characters of a name in a picture
_HEIGHT = 1.35 * FONT_SIZE
_UNITS = 64  # of FreeType in a point


@dataclass(frozen=True)
class _Box:
    left: float
    low: float
    width: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def high(self) -> float:
        return self.low + _HEIGHT

    def overlaps(self, box: "_Box") -> bool:
        return self.left < box.right and box.left < self.right and self.low < box.high and box.low < self.high

    def holds(self, x: float, y: float) -> bool:
        return self.left <= x <= self.right and self.low <= y <= self.high


@lru_cache(maxsize=1024)
def text_width(text: str, *, bold: bool = False) -> float:
    """Return the width of a text in points, in matplotlib's own font."""
    font = get_font(findfont(FontProperties(family="sans-serif", weight="bold" if bold else "normal")))
    font.set_size(FONT_SIZE, 72)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may have a glyph that this font lacks
        font.set_text(text, 0.0)
    return font.get_width_height()[0] / _UNITS


def label_ends(
    axes: Axes,
    ends: Sequence[tuple[float, float]],
    texts: Sequence[str],
    paths: Sequence[Sequence[tuple[float, float]]],
    colours: Colours,
) -> list[Annotation]:
    """Write a text beside each end of a path, where it covers few points of paths; a thin line joins them.

    Args:
        axes: The axes, with their final limits and size.
        ends: The ends of the paths.
        texts: The text of each end.
        paths: The points of all paths.
        colours: The colours.

    Returns:
        The texts and lines.
    """
    scale = 72 / axes.figure.dpi
    to_points = axes.transData.transform
    frame = axes.get_window_extent()
    frame_box = tuple(scale * side for side in (frame.x0, frame.y0, frame.x1, frame.y1))
    occupied = [tuple(scale * part for part in point) for path in paths for point in to_points(path).tolist()]
    marks = [tuple(scale * part for part in point) for point in to_points(ends).tolist()]
    boxes: list[_Box] = []
    artists = []
    for (x, y), end, text in zip(marks, ends, texts, strict=True):
        box = _best_box((x, y), text_width(text), boxes, frame_box, [*occupied, *8 * marks])
        boxes.append(box)
        near = min(max(x, box.left), box.right), min(max(y, box.low), box.high)
        distance = math.dist(near, (x, y))
        text_artist = axes.annotate(
            text,
            end,
            (box.left - x, box.low + 0.22 * FONT_SIZE - y),
            textcoords="offset points",
            ha="left",
            va="bottom",
            fontsize=FONT_SIZE,
            color=colours.ink,
            zorder=9,
            bbox={"boxstyle": "square,pad=0.12", "fc": colours.paper, "ec": "none", "alpha": 0.75},
        )
        artists.append(text_artist)
        if distance > 9:
            line = axes.annotate(
                "",
                end,
                (near[0] - x, near[1] - y),
                textcoords="offset points",
                zorder=5,
                arrowprops={"arrowstyle": "-", "color": colours.ink, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
            )
            artists.append(line)
    return artists


def _best_box(
    mark: tuple[float, float],
    width: float,
    placed: Sequence[_Box],
    frame: tuple[float, ...],
    occupied: Sequence[tuple[float, ...]],
) -> _Box:
    """Return the box of a label: inside the frame, clear of other labels, near its mark and over few points."""
    best, best_cost = None, math.inf
    for radius in _RADII:
        for angle in _ANGLES:
            x, y = mark[0] + radius * math.cos(angle), mark[1] + radius * math.sin(angle)
            left = x - width / 2 + width / 2 * math.cos(angle)
            box = _Box(left, y - _HEIGHT / 2, width)
            outside = max(0.0, frame[0] - box.left, box.right - frame[2], frame[1] - box.low, box.high - frame[3])
            covered = sum(1 for x, y in occupied if box.holds(x, y))
            cost = radius + 3 * covered + 50 * outside + 400 * sum(map(box.overlaps, placed))
            if cost < best_cost:
                best, best_cost = box, cost
    assert best is not None
    return best


def spread(positions: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Return positions in the same order, at least a distance apart if there is room, and near the original ones.

    Args:
        positions: Positions in rising order.
        distance: The smallest distance of neighbours.
        low: The lowest position.
        high: The highest position.

    Example:
        >>> spread([1.0, 1.0, 5.0], 2.0, 0.0, 10.0)
        [0.0, 2.0, 5.0]
    """
    if len(positions) > 1:
        distance = min(distance, (high - low) / (len(positions) - 1))
    groups: list[list[float]] = []  # the sum of the wished places of the first, and the number of members
    for position in positions:
        groups.append([position, 1])
        while len(groups) > 1 and _first(groups[-2], distance, low, high) + groups[-2][1] * distance > _first(
            groups[-1], distance, low, high
        ):
            wished, members = groups.pop()
            groups[-1][0] += wished - members * groups[-1][1] * distance
            groups[-1][1] += members
    return [_first(group, distance, low, high) + k * distance for group in groups for k in range(int(group[1]))]


def _first(group: Sequence[float], distance: float, low: float, high: float) -> float:
    """Return the position of the first member of a group of neighbours."""
    wished, members = group
    return min(max(wished / members, low), high - (members - 1) * distance)
