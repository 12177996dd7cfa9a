"""The page of a suite: its table, profiles and means over tasks, with links to the pages of the tasks."""

from functools import partial
from pathlib import Path
from typing import Any

from thalweg.comparison import Suite
from thalweg.comparison.results.aggregate import RESAMPLES
from thalweg.comparison.results.terms import worse
from thalweg.comparison.suite import folder_name
from thalweg.comparison.suite_result import CAUTION
from thalweg.errors import printable
from thalweg.report.assets import load_assets
from thalweg.report.charts.placed import draw_charts, script_data
from thalweg.report.charts.suite import means_chart, profile_chart
from thalweg.report.charts.theme import assign_colours
from thalweg.report.files import write_page
from thalweg.report.numbers import shorten
from thalweg.report.page import write
from thalweg.report.raw_numbers import embedded_json
from thalweg.report.templates import render_template, values_of


def write_suite(suite: Suite, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write ``suite.html`` into a folder, and the report of each task into a sub-folder.

    Args:
        suite: A finished suite.
        folder: The folder. It is made if it does not exist.
        overwrite: True replaces files that are no reports of thalweg.

    Returns:
        The path of ``suite.html``.

    Raises:
        StoreError: If a file cannot be written.
    """
    folder = Path(folder)
    for task, comparison in suite.comparisons.items():
        suite.parts.make(
            f"the report of {task}", partial(write, comparison, folder / page_path(task), overwrite=overwrite), None
        )
    return write_page(folder / "suite.html", render_suite(suite), overwrite=overwrite)


def page_path(task: str) -> str:
    """Return the path of a task's page, relative to the page of the suite."""
    return f"{folder_name(task)}/report.html"


def render_suite(suite: Suite) -> str:
    """Return the page of a suite as HTML, with its style and charts inside.

    Args:
        suite: A finished suite. The same suite always gives the same text.
    """
    colours = assign_colours(_contenders_in_page_order(suite))

    def charts() -> dict[str, Any]:
        if suite.aggregate is None:
            return {}
        return {
            "means": means_chart(suite.aggregate, colours),
            "profiles": profile_chart(suite.aggregate, colours),
        }

    def drawn() -> dict[str, Any]:
        return draw_charts(charts(), suite.parts)

    def page_data() -> Any:
        return embedded_json(
            script_data(suite.contenders, colours, suite.parts.make("the data of the charts", charts, {}))
        )

    values = {
        "title": lambda: shorten(f"suite: {', '.join(suite.comparisons)}"),
        "suite": lambda: suite,
        "caution": lambda: CAUTION,
        "colours": lambda: colours,
        "worse": lambda: worse,
        "resamples": lambda: RESAMPLES,
        "pages": lambda: {task: page_path(task) for task in suite.comparisons},
        "keys": lambda: {name: printable(name) for name in colours},
        "charts": drawn,
        "page_data": page_data,
        "version": lambda: next(iter(suite.comparisons.values())).record.environment.get("thalweg", ""),
    }
    return render_template("suite.html", values_of(values), suite.parts, load_assets(with_charts=True))


def _contenders_in_page_order(suite: Suite) -> list[str]:
    """Return the contenders in the order of the pages, so that each has the same colour there and here."""
    names = (contender.name for comparison in suite.comparisons.values() for contender in comparison.record.contenders)
    return list(dict.fromkeys(names))
