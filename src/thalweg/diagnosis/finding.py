"""Findings: what a diagnosis or a monitor says to its user."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
