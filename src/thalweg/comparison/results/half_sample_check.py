"""Hindsight: what half of the studies and half of the seeds would have said.

A reader who sees that half the budget came to the same knows that the answer had settled; one who sees that it did not
knows how near it was.
"""

from collections.abc import Mapping, Sequence

from thalweg.comparison.protocol import statistics
from thalweg.comparison.protocol.procedure import Findings

LEVEL = 0.05
_LEAST = 4  # studies or seeds of a half that can say anything


def halved(columns: Mapping[str, Sequence[float]]) -> tuple[int, list[str], list[str]] | None:
    """(how many, who is left after half of the paired scores, who after all), by one and the same test.

    None where half is too few to say anything.
    """
    whole = max(map(len, columns.values()), default=0)
    if whole // 2 < _LEAST or len(columns) < 2:
        return None
    then, now = (
        statistics.drop({name: scores[:count] for name, scores in columns.items() if len(scores) >= count}, LEVEL)[0]
        for count in (whole // 2, whole)
    )
    return whole // 2, then, now


def half_sample_check(findings: Findings) -> list[str]:
    """In sentences; none where there is too little to halve."""
    told = []
    if findings.ranking is not None and (found := halved(findings.ranking.scores)) is not None:
        told.append(_sentence("studies", *found))
    if (found := halved(findings.race.scores)) is not None:
        told.append(_sentence("seeds of the race", *found))
    return told


def _sentence(of: str, half: int, then: Sequence[str], now: Sequence[str]) -> str:
    start = f"By a plain test at {LEVEL:.0%}, half of the {of} ({half})".replace("%", " %")
    if set(then) == set(now):
        return f"{start} leaves the same as all of them: {', '.join(now)}."
    return f"{start} leaves {', '.join(then)}; all of them leave {', '.join(now)}."
