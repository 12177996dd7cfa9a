"""Clock of a diagnosis: the time that is left, and how many runs it pays for."""

from collections.abc import Callable
from time import perf_counter

MAX_RUNS = 29.0  # times the training's own duration; inspection and the report get the rest of 30
MIN_S = 4.0  # a training of milliseconds may take so long to be diagnosed


class Clock:
    """The time of one diagnosis.

    Args:
        budget_s: Seconds that it may take.
        read: Returns the seconds of a steady clock; tests pass their own.

    Attributes:
        budget_s: Seconds that it may take.
        own_s: Seconds of the training's own steps; 0 until it is known.
        run_s: Seconds of one run of ours, with its scores; 0 until it is known.

    Example:
        >>> readings = iter([0.0, 10.0])
        >>> clock = Clock(60.0, lambda: next(readings))
        >>> clock.own_s = 1.0
        >>> clock.left_s
        19.0
    """

    def __init__(self, budget_s: float, read: Callable[[], float] = perf_counter) -> None:
        self.budget_s = budget_s
        self.own_s = 0.0
        self.run_s = 0.0
        self._read = read
        self._start_s = read()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._read() - self._start_s

    @property
    def left_s(self) -> float:
        """Seconds that are left: of the budget, and of so many times the training's own duration."""
        limit = min(self.budget_s, max(MIN_S, MAX_RUNS * self.own_s)) if self.own_s else self.budget_s
        return limit - self.elapsed_s

    def pays_for(self, runs: float) -> bool:
        """Return True if the time that is left is enough for so many runs."""
        return self.left_s >= runs * self.run_s
