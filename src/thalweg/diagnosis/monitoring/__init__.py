"""Monitoring: what a training does while it runs, measured in anyone's own loop. It needs torch alone.

- ``watch`` returns a ``Monitor`` of a model and its optimizer.
- ``Record`` holds what a monitor measured.
- ``clues`` returns the signs of causes in a record.
- ``trace_nonfinite`` finds the operation that made the first value that is not finite; ``TraceAt`` does in a loop.
"""

from thalweg.diagnosis.monitoring.clues import clues, traced_clues
from thalweg.diagnosis.monitoring.monitor import Monitor, watch
from thalweg.diagnosis.monitoring.record import NonFinite, Record
from thalweg.diagnosis.monitoring.trace import Origin, TraceAt, trace_nonfinite

__all__ = [
    "Monitor",
    "NonFinite",
    "Origin",
    "Record",
    "TraceAt",
    "clues",
    "trace_nonfinite",
    "traced_clues",
    "watch",
]
