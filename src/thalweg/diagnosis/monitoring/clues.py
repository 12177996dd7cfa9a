"""Clues of a record."""

from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.monitoring.record import Record


def clues(record: Record) -> list[Clue]:
    """Return the signs of causes in a record, the earliest first."""
    return []


def findings(record: Record) -> list[Finding]:
    """Return the findings of a record."""
    return []
