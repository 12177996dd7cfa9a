"""Monitoring: what a training does while it runs, measured in anyone's own loop. It needs torch alone.

- ``watch`` returns a ``Monitor`` of a model and its optimizer.
- ``Record`` holds what a monitor measured.
- ``clues`` returns the signs of causes in a record.
"""

from thalweg.diagnosis.monitoring.clues import clues
from thalweg.diagnosis.monitoring.monitor import Monitor, watch
from thalweg.diagnosis.monitoring.record import NonFinite, Record

__all__ = ["Monitor", "NonFinite", "Record", "clues", "watch"]
