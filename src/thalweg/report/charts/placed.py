"""Charts as a page holds them: a drawing for readers without scripts, and the data from which the script draws."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from thalweg.errors import printable
from thalweg.parts import Parts
from thalweg.report.charts.data import Chart
from thalweg.report.charts.static import static_chart


@dataclass(frozen=True)
class DrawnChart:
    """A chart as the template places it.

    Attributes:
        id: Its name.
        title: Its heading.
        note: How to read it.
        svg: The drawing for a page without scripts; empty on a live page.
    """

    id: str
    title: str
    note: str
    svg: Markup


def draw_chart(chart: Chart, parts: Parts, *, with_svg: bool = True) -> DrawnChart | None:
    """Return a chart for a template; None if it cannot be drawn.

    Args:
        chart: The chart.
        parts: Knows the charts that could not be drawn.
        with_svg: False to leave out the drawing for a page without scripts.
    """
    svg = parts.make(f"the drawing of {chart.title}", partial(static_chart, chart), None) if with_svg else Markup()
    return None if svg is None else DrawnChart(chart.id, chart.title, chart.note, svg)


def draw_charts(charts: Mapping[str, Any], parts: Parts, *, with_svg: bool = True) -> dict[str, Any]:
    """Return the charts of a page for its template; one that cannot be drawn is left out, and noted.

    Args:
        charts: By its place in the template a chart, several, or None.
        parts: Knows the charts that could not be drawn.
        with_svg: False to leave out the drawings for a page without scripts.
    """

    def place(chart: Chart | None) -> DrawnChart | None:
        return None if chart is None else draw_chart(chart, parts, with_svg=with_svg)

    return {
        name: [drawn for drawn in map(place, item) if drawn is not None] if isinstance(item, list) else place(item)
        for name, item in charts.items()
    }


def script_data(names: Iterable[str], colours: Mapping[str, int], charts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data from which the script makes a page an instrument; raw numbers may be added.

    Args:
        names: What can be hidden on all charts, in the order of its buttons, such as the contenders.
        colours: The number of the colour of each name.
        charts: By its place in the template a chart, several, or None.
    """
    every = [chart for item in charts.values() for chart in (item if isinstance(item, list) else [item])]
    return {
        "contenders": [{"name": printable(name), "colour": colours[name]} for name in names],
        "charts": [chart.to_json() for chart in every if chart is not None],
    }
