"""Findings: what a diagnosis or a monitor says to its user."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.kinds import KINDS

Severity = Literal["note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """A cause, with its evidence and its remedy.

    Attributes:
        kind: The kind of cause, a name of ``KINDS``.
        where: The name of the module or parameter to blame; None if none is.
        since: The step from which on it holds; 0 for what holds before the first step.
        severity: ``error`` if the training cannot work, ``warning`` if it is worse, ``note`` if it may not matter.
        evidence: Measured numbers and names, by what they are.
        explanation: Why this harms a training, in a sentence or two, with the numbers.
        remedy: What to do.
        url: A page about this kind.
    """

    kind: str
    where: str | None
    since: int
    severity: Severity
    evidence: Mapping[str, float | str]
    explanation: str
    remedy: str
    url: str


def as_finding(clue: Clue, severity: Severity, explanation: str = "") -> Finding:
    """Return the finding of a clue, with the texts of its kind.

    Args:
        clue: The clue.
        severity: How much it harms this training.
        explanation: A sentence with numbers, which follows the harm of the kind; empty for its evidence in words.
    """
    kind = KINDS[clue.kind]
    where = f" ({clue.where})" if clue.where else ""
    numbers = explanation or ", ".join(f"{name}: {_text(value)}" for name, value in clue.evidence.items())
    said = f"{kind.title[0].upper()}{kind.title[1:]}{where}. {kind.harm}"
    return Finding(
        clue.kind,
        clue.where,
        clue.since,
        severity,
        clue.evidence,
        f"{said} {numbers[0].upper()}{numbers[1:].removesuffix('.')}." if numbers else said,
        kind.remedy,
        kind.url,
    )


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
