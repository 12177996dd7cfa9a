"""Series: medians, first moments and trends of a record's values."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median

from thalweg.diagnosis.monitoring.record import ParameterInfo, Record, Table


def finite(values: Iterable[float]) -> list[float]:
    """Return the finite values."""
    return [value for value in values if math.isfinite(value)]


def middle(values: Iterable[float]) -> float:
    """Return the median of the finite values; not a number if there are none."""
    known = finite(values)
    return median(known) if known else math.nan


def first_where(values: Sequence[float], holds: Callable[[float], bool], lasting: int = 1) -> int | None:
    """Return the index from which on a condition holds for so many values in a row; None if it never does.

    Example:
        >>> first_where([1, 9, 1, 9, 9], lambda value: value > 5, lasting=2)
        3
    """
    run: list[int] = []
    for index, value in enumerate(values):
        if math.isnan(value):
            continue  # not measured at this step
        run = [*run, index] if holds(value) else []
        if len(run) == lasting:
            return run[0]
    return None


def weights(record: Record) -> list[tuple[str, ParameterInfo]]:
    """Return the trained weights with measured gradients, in order of depth: no embeddings, norms or biases."""
    chosen = [
        (name, info)
        for name, info in record.parameters.items()
        if info.role == "weight" and info.trained and name in record.gradient_norms
    ]
    return sorted(chosen, key=lambda item: item[1].depth)


def of_step(table: Table, names: Sequence[str], index: int) -> list[float]:
    """Return the finite values of names at a monitored step."""
    return finite(table[name][index] for name in names if name in table)


def in_order(record: Record, names: Iterable[str]) -> list[str]:
    """Return the names of modules in order of depth."""
    return sorted(names, key=lambda name: record.depths.get(name, len(record.depths)))


def ends(losses: Sequence[float]) -> tuple[float, float, float]:
    """Return the loss at the start and at the end, and how sure it is that they differ, in standard errors."""
    known = finite(losses)
    if len(known) < 4:
        return (known[0], known[-1], 0.0) if known else (math.nan, math.nan, 0.0)
    count = max(2, min(20, len(known) // 5))
    first, last = known[:count], known[-count:]
    spread = math.sqrt(_variance(first) / count + _variance(last) / count)
    difference = fmean(first) - fmean(last)
    return fmean(first), fmean(last), difference / spread if spread else math.copysign(math.inf, difference)


def _variance(values: Sequence[float]) -> float:
    # Of the steps from value to value, so that a trend is no noise.
    return fmean([(b - a) ** 2 for a, b in itertools.pairwise(values)]) / 2


def learns(record: Record) -> bool:
    """Return True if the loss has fallen for sure, by a tenth of its start or more, and is finite at the end."""
    start, end, sure = ends(record.losses)
    if not record.losses or not math.isfinite(record.losses[-1]) or sure <= 3:
        return False
    start = min(start, finite(record.losses)[0])  # a loss that explodes at once only falls back
    return start - end > 0.1 * abs(start)
