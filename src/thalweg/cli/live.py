"""The option ``--live``: the page of a run is served on this machine while it runs."""

from pathlib import Path
from typing import TYPE_CHECKING

from thalweg.cli.output import echo

if TYPE_CHECKING:
    from thalweg.report.live import LiveReport
    from thalweg.report.live_sources import LiveSource


def live_report(source: "LiveSource | Path", *, err: bool = True) -> "LiveReport":
    """Return the server of the live page; it prints its address when it begins.

    Args:
        source: What the pages show, or the file of the store of a comparison.
        err: True to print the address on stderr.
    """
    from thalweg.report.live import LiveReport

    return LiveReport(source, announce=lambda url: echo(f"Live report: {url}", err=err))
