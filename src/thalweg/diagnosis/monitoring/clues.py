"""Clues: the signs of causes in a record, and findings that need no replay."""

import math

from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.finding import Finding, Severity, finding_from
from thalweg.diagnosis.monitoring.record import Record
from thalweg.diagnosis.monitoring.signs.course_signs import course_clues
from thalweg.diagnosis.monitoring.signs.number_signs import grew_before, number_clues
from thalweg.diagnosis.monitoring.signs.series import ends, learns
from thalweg.diagnosis.monitoring.signs.signal_signs import signal_clues
from thalweg.diagnosis.monitoring.signs.step_signs import step_clues
from thalweg.diagnosis.monitoring.trace import Origin

_CERTAINTIES = {"certain": 0, "likely": 1, "possible": 2}
_SEVERITIES = {"error": 0, "warning": 1, "note": 2}


def clues(record: Record) -> list[Clue]:
    """Return the signs of causes in a record, the earliest first; among equals the most certain first.

    Args:
        record: What a monitor measured.
    """
    signs = [*number_clues(record), *signal_clues(record), *step_clues(record), *course_clues(record)]
    return sorted(signs, key=lambda clue: (clue.since, _CERTAINTIES[clue.certainty]))


def traced_clues(record: Record, origin: Origin | None) -> list[Clue]:
    """Return the clue of a traced step: certain, unless the training had grown without bound before.

    Args:
        record: What a monitor measured.
        origin: What a trace of the step ``record.non_finite.step`` of the same training found.
    """
    if record.non_finite is None or origin is None:
        return []
    clue = origin.as_clue(record.non_finite.step, "possible" if grew_before(record, record.non_finite) else "certain")
    return [] if clue is None else [clue]


def findings(record: Record) -> list[Finding]:
    """Return what a record alone says, the most severe first, then the earliest.

    A symptom has many causes, so that a training which learns gets notes only, except for what is certain.

    Args:
        record: What a monitor measured.
    """
    unsorted = [finding_from(clue, _severity(record, clue)) for clue in clues(record)]
    return sorted(unsorted, key=lambda finding: _SEVERITIES[finding.severity])


def _severity(record: Record, clue: Clue) -> Severity:
    ends_finite = not record.losses or math.isfinite(record.losses[-1])
    if clue.certainty == "certain":
        return "warning" if ends_finite else "error"
    if clue.certainty == "possible" or learns(record):
        return "note"
    if not ends_finite:
        return "error"
    start, end, sure = ends(record.losses)
    stays_low = sure <= 3 and abs(start - end) <= 0.1 * abs(start)  # it may have begun at its optimum
    return "note" if stays_low and clue.kind in ("lr_too_low",) else "warning"
