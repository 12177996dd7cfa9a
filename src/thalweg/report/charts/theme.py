"""Theme: the colours of pages, charts and pictures, and the style in which matplotlib draws them.

A page has each colour twice: a dark one for a light page, a light one for a dark page. Those of contenders have a
contrast of at least 3:1 to the page, as WCAG 2.2 asks of graphics, and the first eight stay apart with protanopia,
deuteranopia and tritanopia. The style of the page knows all of them as variables: ``--ink``, ``--c0`` and so on.

There are ten colours for contenders. Those of a second turn have another mark and another pattern of lines, and so on.
"""

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

LIGHT = ("#3e499b", "#743401", "#11836a", "#d05a9c", "#a27f0d", "#008fcd", "#6e4cd3", "#7f660a", "#c44b59", "#4a4c4d")
DARK = ("#7f9ef6", "#ec4d32", "#94fdca", "#c97195", "#d5b032", "#71cff5", "#896bf3", "#e3e442", "#ee847f", "#b5b7bb")
# Of each turn through the colours. `static/common.js` has the same.
MARKERS = ("o", "s", "D", "P")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.4, 1.8)), (0, (7, 2, 1.4, 2)))

LIGHT_PAGE = {
    "paper": "#fbfaf7",
    "card": "#ffffff",
    "ink": "#1d2329",
    "soft": "#5c6670",
    "grid": "#d9d7d0",
    "line": "#8b9299",
    "accent": "#0b6e75",
    "mark": "#e3f1f0",
    "warn": "#c27a00",
}
DARK_PAGE = {
    "paper": "#14181c",
    "card": "#1b2127",
    "ink": "#e7eaed",
    "soft": "#a3adb7",
    "grid": "#323a42",
    "line": "#6c7681",
    "accent": "#5cc5c0",
    "mark": "#17343a",
    "warn": "#e0a030",
}
FONT_SIZE = 9.0  # points, of the texts of a picture


@dataclass(frozen=True)
class Colours:
    """The colours of a drawing.

    Attributes:
        ink: Texts and marks.
        soft: Notes and reference paths.
        grid: Axes and grid.
        paper: The background, and the edge of marks.
        height: The fill of high places, more of it the higher.
    """

    ink: str = LIGHT_PAGE["ink"]
    soft: str = LIGHT_PAGE["soft"]
    grid: str = LIGHT_PAGE["grid"]
    paper: str = LIGHT_PAGE["card"]
    height: str = "#4d7492"


ON_PAPER = Colours()
# Placeholders that a page replaces by its own colours; so it does with those of contenders.
ON_PAGE = Colours(ink="#010203", soft="#010204", grid="#040506", paper="#070809")
_VARIABLES = {
    ON_PAGE.ink: "currentColor",
    ON_PAGE.soft: "var(--soft)",
    ON_PAGE.grid: "var(--grid)",
    ON_PAGE.paper: "var(--card)",
}


def assign_colours(names: Sequence[str]) -> dict[str, int]:
    """Return the number of the colour of each contender, the same in all charts of a page.

    Args:
        names: The contenders in the order in which the user named them. An eleventh has the colour of the first with
            another mark and another pattern of lines.
    """
    return {name: place for place, name in enumerate(names)}


def colour_of(number: int) -> str:
    """Return the colour of a number, as a drawing has it before a page replaces it."""
    return LIGHT[number % len(LIGHT)]


def turn_of(number: int) -> int:
    """Return the place of the mark and of the pattern of lines that a number has."""
    return number // len(LIGHT) % len(MARKERS)


def variable(number: int) -> str:
    """Return the colour of a number as the style of a page names it."""
    return f"var(--c{number % len(LIGHT)})"


def page_variables(theme: dict[str, str], palette: Sequence[str]) -> str:
    """Return the declarations of the variables of a page.

    Args:
        theme: The colours of the page.
        palette: The colours of contenders.
    """
    named = theme | {f"c{number}": colour for number, colour in enumerate(palette)}
    return " ".join(f"--{name}: {value};" for name, value in named.items())


@contextmanager
def drawing_style(
    colours: Colours, salt: str, *, font_size: float = FONT_SIZE, has_frame: bool = True
) -> Iterator[None]:
    """Set matplotlib's style while something is drawn or written.

    Args:
        colours: The colours.
        salt: A text from which the ids in an SVG follow.
        font_size: Size of all texts in points.
        has_frame: False draws a grid and the axes alone.
    """
    style: dict[Any, Any] = {
        "text.parse_math": False,  # a dollar sign in a name is a dollar sign
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": font_size,
        "axes.edgecolor": colours.grid,
        "axes.facecolor": "none",
        "axes.labelcolor": colours.ink,
        "axes.labelsize": font_size,
        "axes.titlesize": font_size,
        "axes.spines.top": has_frame,
        "axes.spines.right": has_frame,
        "axes.grid": not has_frame,
        "axes.axisbelow": True,
        "grid.color": colours.grid,
        "grid.linewidth": 0.6,
        "text.color": colours.ink,
        "xtick.color": colours.ink,
        "ytick.color": colours.ink,
        "xtick.labelsize": font_size,
        "ytick.labelsize": font_size,
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


@contextmanager
def no_warnings() -> Iterator[None]:
    """Keep warnings of a drawing silent: about glyphs that no font here has, or numbers at the end of their range."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def svg_for_page(figure: Figure, label: str, *, css_class: str = "") -> Markup:
    """Return a figure as SVG that stands in a page and has its colours.

    Args:
        figure: The figure, drawn with the colours ``ON_PAGE``.
        label: The text that a screen reader reads.
        css_class: The class of the element.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)  # the page has these rules in its own
    # An SVG inside HTML needs no namespaces, and without them the page names no outside address.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'width="[^"]*pt" height="[^"]*pt"', "", svg, count=1)
    for placeholder, name in _VARIABLES.items():
        svg = svg.replace(placeholder, name)
    for number, colour in enumerate(LIGHT):
        svg = svg.replace(colour, variable(number))
    named = f' class="{css_class}"' if css_class else ""
    # matplotlib escapes the texts that it draws
    return Markup(svg.replace("<svg", f'<svg{named} role="img" aria-label="{html.escape(label)}"', 1))  # noqa: S704
