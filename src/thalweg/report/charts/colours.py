"""Colours: one for each contender, on all charts of a page.

A page has each colour twice: a dark one for a light page, a light one for a dark page. Each has a contrast of at least
3:1 to the page, as WCAG 2.2 asks of graphics, and the first eight stay apart with protanopia, deuteranopia and
tritanopia. The style of the page knows them as ``--c0``, ``--c1`` and so on.
"""

from collections.abc import Sequence

LIGHT = ("#3e499b", "#743401", "#11836a", "#d05a9c", "#a27f0d", "#008fcd", "#6e4cd3", "#7f660a", "#c44b59", "#4a4c4d")
DARK = ("#7f9ef6", "#ec4d32", "#94fdca", "#c97195", "#d5b032", "#71cff5", "#896bf3", "#e3e442", "#ee847f", "#b5b7bb")


def assign_colours(names: Sequence[str]) -> dict[str, int]:
    """Return the number of the colour of each contender, the same in all charts of a page.

    Args:
        names: The contenders in the order in which the user named them. An eleventh shares the colour of the first.
    """
    return {name: place % len(LIGHT) for place, name in enumerate(names)}


def variable(colour: int) -> str:
    """Return a colour as the style of a page names it."""
    return f"var(--c{colour % len(LIGHT)})"
