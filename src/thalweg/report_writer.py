"""Report writer: the plug-in that writes a report.

A comparison or a diagnosis does not import the package that draws it. A writer is an entry point of the group
``thalweg.report_writers``: a function that takes the result and a path, and returns the path of the page. It takes
``overwrite=True`` if the user asks for it. thalweg declares its own writers, ``comparison``, ``suite`` and
``diagnosis``, in `pyproject.toml`.
"""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from thalweg.errors import StoreError

GROUP = "thalweg.report_writers"

ReportWriter = Callable[..., Path]


def load_report_writer(name: str) -> ReportWriter:
    """Return the function that writes the reports of one kind.

    Args:
        name: The name of the entry point: ``comparison``, ``suite`` or ``diagnosis``.

    Returns:
        A function from the result and a path to the path of the page.

    Raises:
        StoreError: If no installed package declares such a writer.
    """
    entry_point = next(iter(metadata.entry_points(group=GROUP, name=name)), None)
    if entry_point is None:
        raise StoreError(
            f"thalweg: the installed package must declare the report writer {name!r} in the group {GROUP}, got none. "
            "Install thalweg again, with pip install, so that its metadata is complete."
        )
    writer: ReportWriter = entry_point.load()
    return writer
