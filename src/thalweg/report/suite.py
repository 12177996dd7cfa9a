"""The page of a suite: matrix, profiles and means over its tasks, with links to the pages of the tasks beside it."""

from pathlib import Path
from typing import Any

from thalweg.comparison import Suite
from thalweg.comparison.results.aggregate import RESAMPLES
from thalweg.comparison.suite import CAUTION, folder_name, worse
from thalweg.report import charts
from thalweg.report.page import colours_of, filled, write, written


def write_suite(suite: Suite, folder: str | Path) -> Path:
    """Write `suite.html` into a folder and the report of each task into a sub-folder; return the path of the first.

    Raises StoreError if they cannot be written.
    """
    folder = Path(folder)
    for task, comparison in suite.comparisons.items():
        write(comparison, folder / page_of(task))
    return written(folder / "suite.html", render_suite(suite))


def page_of(task: str) -> str:
    """Where the page of a task lies, seen from that of the suite."""
    return f"{folder_name(task)}/report.html"


def render_suite(suite: Suite) -> str:
    """The page of a suite as text: HTML with its style and charts inside."""
    found = suite.aggregate
    colours = colours_of(_as_in_the_pages(suite))
    label = "interquartile mean of loss ÷ that of the best"
    facts: dict[str, Any] = {
        "suite": suite,
        "caution": CAUTION,
        "colours": colours,
        "worse": worse,
        "resamples": RESAMPLES,
        "pages": {task: page_of(task) for task in suite.comparisons},
        "profiles": None if found is None else charts.profiles(found, colours),
        "means": None
        if found is None
        else charts.intervals(
            {name: (one.low, one.mean, one.high) for name, one in found.ratio.items()}, colours, label
        ),
        "environment": next(iter(suite.comparisons.values())).record.environment,
    }
    return filled("suite.html", facts)


def _as_in_the_pages(suite: Suite) -> list[str]:
    """The contenders in the order in which they were named, so that each has one colour here and in the pages."""
    described = (one.name for found in suite.comparisons.values() for one in found.record.contenders)
    return list(dict.fromkeys(described))
