"""Scale: scores of runs as shares of what can be reached, whatever the metric or loss."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from thalweg.diagnosis.run_record import RunRecord

LAST = 2  # scores whose mean counts


def final_score(record: RunRecord) -> float:
    """Return the score that counts: the mean of the last ones; minus infinity for a run that failed or diverged."""
    if record.ending in ("failed", "diverged") or len(record.scores) < LAST:
        return -math.inf
    last = [score for _, score in record.scores[-LAST:]]
    return sum(last) / len(last)


class Scale:
    """From 0, what a model reaches without looking at its inputs, to 1, what the best run reaches.

    Args:
        records: All runs so far.

    Attributes:
        floor: The score at 0.
        best: The score at 1.
        noise: The typical change of a score between two late moments of a run, as a share.
        is_empty: True if no run reaches more than a model that ignores its inputs, up to noise.
    """

    def __init__(self, records: Sequence[RunRecord]) -> None:
        finals = {id(record): final_score(record) for record in records}
        finished = [record for record in records if math.isfinite(finals[id(record)])]
        self.best = max((finals[id(record)] for record in finished), default=-math.inf)
        blind = [record.blind_score for record in records if record.blind_score is not None]
        reached = [score for record in records for _, score in record.scores if math.isfinite(score)]
        steps = [abs(b - a) for record in finished for a, b in _late_pairs(record)]
        jitter = median(steps) if steps else 0.0
        blind_floor = max(blind, default=math.inf)
        self.is_blind_known = bool(blind)
        self.is_empty = not finished or (bool(blind) and self.best - blind_floor <= NOISES * jitter)
        if blind_floor < self.best and not self.is_empty:
            self.floor = blind_floor
        else:  # outputs cannot be replaced, or constants score best: from the worst that was seen
            self.floor = min(reached, default=-math.inf)
        self._range = self.best - self.floor if self.best > self.floor else math.inf
        self.noise = 0.0 if math.isinf(self._range) else jitter / self._range

    def share(self, score: float) -> float:
        """Return a score as a share of what the best run reaches, at least 0."""
        if not math.isfinite(score) or math.isinf(self._range):
            return 0.0
        return max(0.0, (score - self.floor) / self._range)

    def final_share(self, record: RunRecord) -> float:
        """Return the final score of a run as a share."""
        return self.share(final_score(record))


NOISES = 3.0  # times the typical change between two late scores: less is nothing learnt


def _late_pairs(record: RunRecord) -> Iterable[tuple[float, float]]:
    late = [score for _, score in record.scores[-LAST - 1 :] if math.isfinite(score)]
    return pairwise(late)
