"""Findings: what a diagnosis or a monitor says to its user."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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


def finding_from(clue: Clue, severity: Severity) -> Finding:
    """Return the finding of a clue: its kind's texts, with the numbers of the clue.

    Args:
        clue: The clue.
        severity: How much it harms the training.

    Example:
        >>> from thalweg.diagnosis.clue import Clue
        >>> finding = finding_from(Clue("dead_relu", "likely", "hidden.2", 40, {"dead_share": 0.93}), "warning")
        >>> finding.url
        'docs/diagnosis/causes/dead_relu.md'
        >>> "dead share 0.93" in finding.explanation
        True
    """
    kind = KINDS[clue.kind]
    return Finding(
        kind=clue.kind,
        where=clue.where,
        since=clue.since,
        severity=severity,
        evidence=clue.evidence,
        explanation=" ".join(filter(None, [kind.explanation, measured(clue.evidence)])),
        remedy=kind.remedy,
        url=kind.url,
    )


def cured_by(finding: Finding, kind: str, change: str) -> Finding:
    """Return the finding of a cause with the change that was verified in its remedy.

    Args:
        finding: The cause.
        kind: The kind of cause that the change cures. It may differ from that of the finding.
        change: The name of the change.

    Example:
        >>> from thalweg.diagnosis.clue import Clue
        >>> finding = finding_from(Clue("zero_init", "certain", "body"), "error")
        >>> cured_by(finding, "zero_init", "constant weights drawn at random").remedy.split(". ")[0]
        'Make the change that was verified: constant weights drawn at random'
    """
    if kind == finding.kind:
        remedy = f"Make the change that was verified: {change}. In general: {finding.remedy}"
    else:
        remedy = f"{finding.remedy} The change that was verified is another: {change}."
    return replace(finding, remedy=remedy)


def measured(evidence: Mapping[str, float | str]) -> str:
    """Return the evidence as a sentence; an empty text if there is none.

    Example:
        >>> measured({"lr": 0.30000001, "largest_loss": float("inf"), "dtype": "float16"})
        'Measured: lr 0.3, largest loss inf, dtype float16.'
    """
    if not evidence:
        return ""
    parts = (name.replace("_", " ") + " " + _shown(value) for name, value in evidence.items())
    return f"Measured: {', '.join(parts)}."


def _shown(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
