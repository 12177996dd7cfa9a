"""Report: a stored comparison as one self-contained HTML file."""

from thalweg.report.page import render, write

__all__ = ["render", "write"]
