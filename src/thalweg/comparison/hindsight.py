"""Hindsight: what half of the studies and half of the seeds would have said.

A reader who sees that half the budget came to the same knows that the answer had settled; one who sees that it did not
knows how near it was.
"""

from collections.abc import Mapping, Sequence

from thalweg.comparison import statistics
from thalweg.comparison.protocol import Findings

LEVEL = 0.05
_LEAST = 4  # studies or seeds of a half that can say anything


def halved(columns: Mapping[str, Sequence[float]]) -> tuple[int, list[str]] | None:
    """(how many, who would have been kept) after half of the paired scores; None where that is too few to say."""
    half = max(map(len, columns.values()), default=0) // 2
    if half < _LEAST or len(columns) < 2:
        return None
    enough = {name: scores[:half] for name, scores in columns.items() if len(scores) >= half}
    return half, statistics.drop(enough, LEVEL)[0]


def hindsight(findings: Findings) -> list[str]:
    """In sentences; none where there is too little to halve."""
    told = []
    race, ranking = findings.race, findings.ranking
    if ranking is not None and (found := halved(ranking.scores)) is not None:
        told.append(_sentence("studies", *found, ranking.kept))
    if (found := halved(race.scores)) is not None:
        told.append(_sentence("seeds of the race", *found, race.kept))
    return told


def _sentence(of: str, half: int, then: Sequence[str], now: Sequence[str]) -> str:
    start = f"After half of the {of} ({half})"
    if set(then) == set(now):
        return f"{start} the same were left{', in the same order' if list(then) == list(now) else ''}."
    return f"{start} these would have been left: {', '.join(then)}; now: {', '.join(now)}."
