"""Style of pictures: colours for paper and for a page, sizes, and the settings of matplotlib."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

FONT_SIZE = 9.0  # points, of all texts
MAX_NAME = 22  # characters of a name in a picture


@dataclass(frozen=True)
class Colours:
    """The colours of a picture.

    Attributes:
        ink: Texts and marks.
        soft: Notes and reference paths.
        grid: Axes and grid.
        paper: The background, and the edge of marks.
        height: The fill of high places, more of it the higher.
    """

    ink: str = "#1d2329"
    soft: str = "#5c6670"
    grid: str = "#d9d7d0"
    paper: str = "#ffffff"
    height: str = "#4d7492"


ON_PAPER = Colours()
# Placeholders that a page replaces by its own colours.
ON_PAGE = Colours(ink="#010203", soft="#010204", grid="#040506", paper="#070809", height="#4d7492")
VARIABLES = {
    ON_PAGE.ink: "currentColor",
    ON_PAGE.soft: "var(--soft)",
    ON_PAGE.grid: "var(--grid)",
    ON_PAGE.paper: "var(--card)",
}


@contextmanager
def picture_style(colours: Colours, salt: str) -> Iterator[None]:
    """Set matplotlib's style while a picture is drawn or written.

    Args:
        colours: The colours.
        salt: A text from which the ids in an SVG follow.
    """
    style: dict[Any, Any] = {
        "text.parse_math": False,  # a dollar sign in a name is a dollar sign
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": FONT_SIZE,
        "axes.edgecolor": colours.grid,
        "axes.facecolor": "none",
        "axes.labelcolor": colours.ink,
        "axes.labelsize": FONT_SIZE,
        "axes.titlesize": FONT_SIZE,
        "xtick.labelsize": FONT_SIZE,
        "ytick.labelsize": FONT_SIZE,
        "axes.axisbelow": True,
        "grid.color": colours.grid,
        "grid.linewidth": 0.6,
        "text.color": colours.ink,
        "xtick.color": colours.ink,
        "ytick.color": colours.ink,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "figure.facecolor": colours.paper,
        "savefig.facecolor": "auto",
        "path.simplify": False,
    }
    with mpl.rc_context(style):
        yield
