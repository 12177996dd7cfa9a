"""Clock: the time since a comparison was requested, and what is left of a budget in seconds.

A comparison that was interrupted goes on with the time that it had used before. Time between two sessions is free.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

RESERVE_SHARE, MAX_RESERVE_S = 0.02, 2.0  # of a budget, for the verdict and the report after the last training
OVERTIME_SHARE = 0.02  # of a budget, by which a training that was predicted to end in time may be late

Read = Callable[[], float]


@dataclass
class Clock:
    """The time of one comparison over all sessions.

    Attributes:
        budget_s: Seconds for the whole comparison; None if the budget is no time.
        earlier_s: Seconds that earlier sessions used.
        read: Returns the seconds of a steady clock; tests pass their own.
        start_s: Its reading when this session began.

    Example:
        >>> readings = iter([100.0, 130.0, 130.0])
        >>> clock = Clock(60.0, earlier_s=10.0, read=lambda: next(readings))
        >>> clock.elapsed_s
        40.0
        >>> round(clock.left_s, 1)
        18.8
    """

    budget_s: float | None = None
    earlier_s: float = 0.0
    read: Read = field(default_factory=lambda: monotonic)
    start_s: float = field(default=-1.0)

    def __post_init__(self) -> None:
        if self.start_s < 0:
            self.start_s = self.read()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the comparison was first requested, without the time between sessions."""
        return self.earlier_s + self.read() - self.start_s

    @property
    def trainings_s(self) -> float | None:
        """Seconds of the budget that trainings may use; the rest pays for the verdict. None without a limit."""
        if self.budget_s is None:
            return None
        return self.budget_s - min(RESERVE_SHARE * self.budget_s, MAX_RESERVE_S)

    @property
    def left_s(self) -> float | None:
        """Seconds that are left for trainings, never below zero; None without a limit."""
        return None if self.trainings_s is None else max(0.0, self.trainings_s - self.elapsed_s)

    @property
    def overtime_s(self) -> float:
        """Seconds by which a training may end after the time for trainings; 0 without a limit."""
        return OVERTIME_SHARE * (self.budget_s or 0.0)

    @property
    def stop_at_s(self) -> float:
        """Reading of the clock at which trainings under way are stopped; infinite without a limit."""
        if self.trainings_s is None:
            return math.inf
        return self.start_s - self.earlier_s + self.trainings_s + self.overtime_s

    @property
    def share(self) -> float:
        """Share of a time budget that is used, from 0 to 1; 0 without a limit."""
        return 0.0 if not self.budget_s else min(1.0, self.elapsed_s / self.budget_s)
