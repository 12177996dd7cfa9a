"""Half-sample check: the contenders that remain if only half of the studies, or half of the seeds, are used.

If half of the evidence leads to the same result, the result had settled. If not, a reader sees how close it was.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from thalweg import statistics
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.results.terms import percent

ALPHA = 0.05
_MIN_HALF = 4  # fewer studies or seeds say nothing


class HalfSample(NamedTuple):
    """The contenders that one and the same test leaves on half of the paired scores and on all of them.

    Attributes:
        half: The number of studies or seeds in the first half.
        all: The number of all studies or seeds.
        after_half: The contenders that remain after the first half.
        after_all: The contenders that remain after all.
    """

    half: int
    all: int
    after_half: list[str]
    after_all: list[str]


def halve(scores: Mapping[str, Sequence[float]]) -> HalfSample | None:
    """Return the half sample of paired scores. None if half of them are too few, or there is a single contender.

    A contender with fewer scores was dropped before and takes no part.
    """
    total = max(map(len, scores.values()), default=0)
    if total // 2 < _MIN_HALF or len(scores) < 2:
        return None
    after_half, after_all = (
        statistics.drop({name: column[:count] for name, column in scores.items() if len(column) >= count}, ALPHA)[0]
        for count in (total // 2, total)
    )
    return HalfSample(total // 2, total, after_half, after_all)


def half_sample_check(findings: Findings) -> list[str]:
    """Return a sentence for the studies and one for the seeds of the race. None of those that are too few."""
    samples = {"seeds of the race": halve(findings.race.scores)}
    if findings.ranking is not None:
        samples = {"studies": halve(findings.ranking.scores)} | samples
    return [_sentence(unit, sample) for unit, sample in samples.items() if sample is not None]


def _sentence(unit: str, sample: HalfSample) -> str:
    start = f"Half-sample check by a plain test at {percent(ALPHA)}: the first {sample.half} {unit}"
    after_half, after_all = ", ".join(sample.after_half), ", ".join(sample.after_all)
    if set(sample.after_half) == set(sample.after_all):
        return f"{start} leave the same contenders as all {sample.all}: {after_all}."
    return f"{start} leave {after_half}; all {sample.all} leave {after_all}."
