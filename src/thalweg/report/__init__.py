"""Report: a stored comparison as one self-contained HTML file; a suite as one file beside those of its tasks."""

from thalweg.report.page import render, write
from thalweg.report.suite import render_suite, write_suite

__all__ = ["render", "render_suite", "write", "write_suite"]
