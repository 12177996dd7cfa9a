"""The page of a suite: its table, profiles and means over tasks, with links to the pages of the tasks."""

from pathlib import Path
from typing import Any

from thalweg.comparison import Suite
from thalweg.comparison.results.aggregate import RESAMPLES
from thalweg.comparison.suite import CAUTION, folder_name, worse
from thalweg.report import charts
from thalweg.report.page import assign_colours, render_template, write, write_page


def write_suite(suite: Suite, folder: str | Path) -> Path:
    """Write ``suite.html`` into a folder, and the report of each task into a sub-folder.

    Args:
        suite: A finished suite.
        folder: The folder. It is made if it does not exist.

    Returns:
        The path of ``suite.html``.

    Raises:
        StoreError: If a file cannot be written.
    """
    folder = Path(folder)
    for task, comparison in suite.comparisons.items():
        write(comparison, folder / page_path(task))
    return write_page(folder / "suite.html", render_suite(suite))


def page_path(task: str) -> str:
    """Return the path of a task's page, relative to the page of the suite."""
    return f"{folder_name(task)}/report.html"


def render_suite(suite: Suite) -> str:
    """Return the page of a suite as HTML, with its style and charts inside.

    Args:
        suite: A finished suite. The same suite always gives the same text.
    """
    aggregate = suite.aggregate
    colours = assign_colours(_contenders_in_page_order(suite))
    values: dict[str, Any] = {
        "suite": suite,
        "caution": CAUTION,
        "colours": colours,
        "worse": worse,
        "resamples": RESAMPLES,
        "pages": {task: page_path(task) for task in suite.comparisons},
        "profiles": None,
        "means": None,
        "environment": next(iter(suite.comparisons.values())).record.environment,
    }
    if aggregate is not None:
        intervals = {name: (ratio.low, ratio.mean, ratio.high) for name, ratio in aggregate.ratio.items()}
        label = "interquartile mean of the ratio to the best"
        values["means"] = charts.interval_chart(intervals, colours, label)
        values["profiles"] = charts.profile_chart(aggregate, colours)
    return render_template("suite.html", values)


def _contenders_in_page_order(suite: Suite) -> list[str]:
    """Return the contenders in the order of the pages, so that each has the same colour there and here."""
    names = (contender.name for comparison in suite.comparisons.values() for contender in comparison.record.contenders)
    return list(dict.fromkeys(names))
