"""Same value: settings of a search that all gave one and the same value, so that nothing can be chosen among them."""

import math
from collections.abc import Sequence

from thalweg.comparison.results.records import TrialRecord

MAX_CHANCE = 2  # settings that may give the same value by chance, as an accuracy does


def find_same_value(searched: Sequence[TrialRecord], split: str) -> float | None:
    """Return the value that all settings of each study gave; None if they differ, or if there is one setting.

    Args:
        searched: Trials of searches.
        split: The split that chooses.
    """
    # A study trains from one seed, so the values of its settings differ by the optimizer alone.
    values_by_study: dict[int, set[float]] = {}
    for trial in searched:
        values_by_study.setdefault(trial.study, set()).add(getattr(trial.result, split))
    equal = [next(iter(values)) for values in values_by_study.values() if len(values) == 1]
    if len(searched) > len(values_by_study) == len(equal) and all(map(math.isfinite, equal)):
        return equal[0]
    return None
