"""The page of a suite: its table, profiles and means over tasks, with links to the pages of the tasks."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from thalweg.comparison import Suite
from thalweg.comparison.results.aggregate import RESAMPLES
from thalweg.comparison.results.environment import NOT_SHOWN
from thalweg.comparison.results.terms import HEADINGS, worse, worse_interval
from thalweg.comparison.suite import folder_name
from thalweg.errors import printable
from thalweg.report.assets import load_assets
from thalweg.report.charts import suite as charts
from thalweg.report.charts.data import Chart
from thalweg.report.charts.placed import draw_charts, script_data
from thalweg.report.charts.theme import assign_colours
from thalweg.report.files import write_page
from thalweg.report.numbers import shorten, sortable
from thalweg.report.page import LiveState, write
from thalweg.report.raw_numbers import embedded_json, raw_numbers
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


def render_suite(suite: Suite, *, live: LiveState | None = None) -> str:
    """Return the page of a suite as HTML, with its style, charts, scripts and raw numbers inside.

    A part that cannot be made is a note on the page, and in ``suite.parts``.

    Args:
        suite: A suite, finished or not. The same suite always gives the same text.
        live: What to say of a suite that is running; its page renews itself.
    """
    assets = load_assets(with_charts=True, is_live=live is not None)
    return render_template("suite.html", values_of(_values(suite, live)), suite.parts, assets)


def _values(suite: Suite, live: LiveState | None) -> dict[str, Callable[[], Any]]:
    """Return a function for each value of the template, so that one that raises leaves the others."""
    make = suite.parts.make
    colours = assign_colours(_contenders_in_page_order(suite))
    records = [comparison.record for comparison in suite.comparisons.values()]
    tasks = [*suite.comparisons, *suite.failures, *suite.pending]

    def matrix() -> Chart | None:
        return charts.matrix_chart(suite.matrix, {name: colours[name] for name in suite.contenders})

    @cache
    def drawn() -> dict[str, Any]:
        return {
            "matrix": make("the chart of the tasks", matrix, None),
            "means": make("the chart of the means", lambda: charts.means_chart(suite.aggregate, colours), None),
            "profiles": make("the profiles", lambda: charts.profile_chart(suite.aggregate, colours), None),
        }

    @cache
    def raw() -> dict[str, Any] | None:
        trainings = [
            (task, training) for task, comparison in suite.comparisons.items() for training in comparison.trainings
        ]

        def numbers() -> dict[str, Any]:
            names = [task for task, _ in trainings]
            return raw_numbers([training for _, training in trainings], suite.to_json(), tasks=names)

        return make("the raw numbers", numbers, None)

    def page_data() -> Any:
        order = make("the order of the contenders", lambda: suite.contenders, [])
        return embedded_json(script_data(order, colours, drawn()) | {"raw": raw()})

    return {
        "title": lambda: shorten(f"suite: {', '.join(tasks)}"),
        "tasks": lambda: tasks,
        "suite": lambda: suite,
        "live": lambda: live,
        "colours": lambda: colours,
        "keys": lambda: {name: printable(name) for name in colours},
        "pages": lambda: {task: page_path(task) for task in suite.comparisons},
        "headings": lambda: HEADINGS,
        "sortable": lambda: sortable,
        "worse": lambda: worse,
        "worse_interval": lambda: worse_interval,
        "resamples": lambda: RESAMPLES,
        "charts": lambda: draw_charts(drawn(), suite.parts, with_svg=live is None),
        "page_data": page_data,
        "left_out": lambda: (raw() or {"left_out": ""})["left_out"],
        "command": lambda: records[0].environment.get("command", ""),
        "seed": lambda: records[0].plan.seed,
        "environment": lambda: {key: value for key, value in records[0].environment.items() if key not in NOT_SHOWN},
        "created": lambda: min(record.created for record in records),
        "finished": lambda: max(record.finished or "" for record in records) if suite.is_finished else "",
        "version": lambda: records[0].environment.get("thalweg", ""),
    }


def _contenders_in_page_order(suite: Suite) -> list[str]:
    """Return the contenders in the order of the pages, so that each has the same colour there and here."""
    names = (contender.name for comparison in suite.comparisons.values() for contender in comparison.record.contenders)
    return list(dict.fromkeys(names))
