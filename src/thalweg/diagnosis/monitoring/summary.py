"""Summary: a record as text."""

from collections.abc import Sequence

from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.monitoring.record import Record


def summarize(record: Record, findings: Sequence[Finding]) -> str:
    """Return the findings and measurements as text."""
    return f"{len(record.losses)} steps"
