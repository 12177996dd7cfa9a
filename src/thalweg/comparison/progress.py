"""Progress: what a comparison is doing, what it knows so far, and how much of its budget is left."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """The progress of a comparison.

    Attributes:
        stage: The stage that is running: ``pilot``, ``search``, ``retrain``, ``judge``, ``final``, ``race``,
            ``value``, ``start`` or ``recommended``. Empty for a message.
        contender: The contender that is trained, or the number of contenders.
        done: The number of trainings that are done, with the share of the current one.
        total: The largest number of trainings that may be needed. It never grows. Zero if it is unknown, as it is with
            a budget in seconds.
        best: The least loss so far on the selection split.
        message: A message to show, such as the death of a worker process. Empty if there is none.
        leader: The contender with the best loss so far; empty before the first training has ended.
        elapsed_s: Seconds since the comparison was requested, those of earlier sessions included.
        left_s: Seconds that are left of a time budget; None if the budget is no time.
        share: The share of the budget that is used, from 0 to 1.
    """

    stage: str
    contender: str
    done: float = 0.0
    total: int = 0
    best: float = math.inf
    message: str = ""
    leader: str = ""
    elapsed_s: float = 0.0
    left_s: float | None = None
    share: float = 0.0
