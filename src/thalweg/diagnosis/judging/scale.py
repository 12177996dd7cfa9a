"""Scale: scores of runs as shares of what can be reached, whatever the metric or loss."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from thalweg.diagnosis.run_record import RunRecord

LAST = 2  # scores whose mean counts
NOISES = 3.0  # times the typical change between two late scores: less is nothing learnt
NEXT_TO_NOTHING = 0.25  # of the floor, by which a score must exceed it if nothing else shows that a model learns
CLEARLY = 3.0  # times the floor, and times what noise explains: so far above it a run has learnt beyond doubt
TIE = 1e-3  # relative difference of scores that are the same
HARM = 10.0  # times the floor: a run that ends lower by an order of magnitude was harmed by its training


def final_score(record: RunRecord) -> float:
    """Return the score that counts: the mean of the last ones; minus infinity for a run that failed or diverged."""
    if record.ending in ("failed", "diverged") or len(record.scores) < LAST:
        return -math.inf
    last = [score for _, score in record.scores[-LAST:]]
    return sum(last) / len(last)


class Scale:
    """From 0, what a model reaches without training or without looking at its inputs, to 1, what the best run reaches.

    Where no run reaches more than that, and some end far below, training harms. There is no finite worst score then: a
    run that ends below the best by ten times the floor has a share of a half, by thirty times that of a quarter.

    Args:
        records: All runs so far, at least one.

    Attributes:
        floor: The score at 0.
        best: The score at 1.
        noise: The typical change of a score between two late moments of a run, as a share.
        is_small: True if the best score exceeds the floor by next to nothing.
        is_empty: True if no run reaches more than the floor, up to noise: nothing was learnt.
    """

    def __init__(self, records: Sequence[RunRecord]) -> None:
        finished = [record for record in records if record.ending == "complete" and math.isfinite(final_score(record))]
        best_record = max(finished, key=final_score, default=None)
        self.best = -math.inf if best_record is None else final_score(best_record)
        untrained = max((floor for record in records for floor in _untrained_scores(record)), default=-math.inf)
        blind = [end for record in finished if (end := _blind_end(record)) is not None]
        self.floor = max([untrained, *blind])
        steps = [abs(b - a) for record in finished for a, b in _late_pairs(record)]
        jitter = median(steps) if steps else 0.0
        if best_record is not None and math.isfinite(self.floor):
            own = max((abs(b - a) for a, b in _late_pairs(best_record)), default=0.0)
            if self.best - self.floor > max(CLEARLY * abs(self.floor), CLEARLY * NOISES * own):
                jitter = min(jitter, own)  # how bad runs jump about far below the floor is no noise of this one
        least = NOISES * jitter
        is_blind = best_record is None or _blind_end(best_record) is None
        if is_blind:  # nothing shows that outputs follow the inputs
            least = max(least, NEXT_TO_NOTHING * abs(self.floor)) if math.isfinite(self.floor) else least
        self.is_empty = best_record is None or self.best - self.floor <= least
        self.is_small = self.best - self.floor <= NEXT_TO_NOTHING * abs(self.floor)
        self._unit: float | None = None
        if self.is_empty and is_blind and math.isfinite(self.best) and math.isfinite(self.floor):
            unit = HARM * max(abs(self.floor), abs(self.best))
            if unit > 0 and _worst(records) < min(self.floor, self.best) - unit:
                self._unit = unit
        if not self.floor < self.best:  # such as a bound that an untrained model keeps best: from the worst score
            self.floor = min((score for record in records for _, score in record.scores), default=-math.inf)
        self._range = self.best - self.floor if self.best > self.floor else math.inf
        self.noise = 0.0 if math.isinf(self._range) else jitter / self._range

    def share(self, score: float) -> float:
        """Return a score as a share of what the best run reaches, at least 0."""
        if self._unit is not None:
            return 1 / (1 + max(0.0, self.best - score) / self._unit) if math.isfinite(score) else 0.0
        if not math.isfinite(score) or not math.isfinite(self._range):
            return 0.0
        return max(0.0, (score - self.floor) / self._range)

    def final_share(self, record: RunRecord) -> float:
        """Return the final score of a run as a share."""
        return self.share(final_score(record))


def _worst(records: Sequence[RunRecord]) -> float:
    """Return the lowest final score; minus infinity if a run diverged."""
    return min((final_score(record) for record in records if record.ending in ("complete", "diverged")), default=0.0)


def _late_pairs(record: RunRecord) -> Iterable[tuple[float, float]]:
    late = [score for _, score in record.scores[-LAST - 1 :] if math.isfinite(score)]
    return pairwise(late)


def _untrained_scores(record: RunRecord) -> Iterable[float]:
    """Yield the scores before any step, unless the model comes trained: without looking, and looking."""
    start, blind = record.scores[0][1] if record.scores else -math.inf, record.blind_start
    if blind is not None:
        yield blind
    is_untrained = record.comes_trained is False
    if record.comes_trained is None:
        is_untrained = blind is None or start - blind <= NEXT_TO_NOTHING * abs(blind)
    if math.isfinite(start) and is_untrained:
        yield start


def _blind_end(record: RunRecord) -> float | None:
    """Return the blind score at the end; None if the run is not better than that.

    Then it says nothing: the outputs may be constant, or the score may depend on their mean alone.
    """
    blind = record.blind_end
    if blind is None or not record.scores:
        return None
    score = min(final_score(record), record.scores[-1][1])
    return None if not blind < score - TIE * abs(score) else blind
