"""Report: a comparison, a suite or a diagnosis as self-contained HTML files."""

from thalweg.extras import require_lab

require_lab(__name__)

from thalweg.report.diagnosis_page import render_diagnosis, write_diagnosis  # noqa: E402
from thalweg.report.page import render, write  # noqa: E402
from thalweg.report.suite import render_suite, write_suite  # noqa: E402

__all__ = ["render", "render_diagnosis", "render_suite", "write", "write_diagnosis", "write_suite"]
