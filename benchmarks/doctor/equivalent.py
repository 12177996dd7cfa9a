"""Answers: when a finding names the cause of a case, and the module to blame.

Two names count as the same fault only where they describe the same state of the training; each entry says why.
"""

from collections.abc import Sequence

SAME_FAULT: dict[tuple[str, str], str] = {}
"""(kind of a case or its key, kind of a finding) -> why both are right."""


def names_kind(case: str, finding: str) -> bool:
    """Return whether a finding of this kind names the cause of a case ``kind/name``."""
    kind = case.split("/")[0]
    return finding == kind or (kind, finding) in SAME_FAULT or (case, finding) in SAME_FAULT


def names_place(accepted: Sequence[str], where: str | None) -> bool:
    """Return whether a place is one of those accepted, or lies in one of them."""
    return where is not None and any(where == name or where.startswith(name + ".") for name in accepted)
