"""Report: a stored comparison as one self-contained HTML file; a suite as one file beside those of its tasks."""

from thalweg.extras import require_lab

require_lab(__name__)

from thalweg.report.page import render, write  # noqa: E402
from thalweg.report.suite import render_suite, write_suite  # noqa: E402

__all__ = ["render", "render_suite", "write", "write_suite"]
