"""Clock of a diagnosis: the time that is left, and how many runs it pays for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter, process_time

MAX_RUNS = 27.0  # times the training's own duration; inspection, evaluations and the report get the rest of 30
MIN_S = 1.5  # a training of milliseconds may take so long to be diagnosed
NORMAL_BUDGET_S = 60.0  # up to this budget these two hold; twice the budget allows twice as much


class Clock:
    """The time of one diagnosis.

    The budget is a time by the clock on the wall. The share of a training's own duration is one of processor time,
    which does not depend on what else the machine does. A budget above the normal one raises it, in proportion.

    Args:
        budget_s: Seconds that it may take.
        read: Returns the seconds of a steady clock; tests pass their own.
        read_processor: Returns the seconds of processor time.

    Attributes:
        budget_s: Seconds that it may take.
        own_s: Processor seconds of the training's own steps; 0 until it is known.

    Example:
        >>> readings = iter([0.0, 10.0])
        >>> clock = Clock(60.0, lambda: next(readings), lambda: 0.0)
        >>> clock.left_s
        50.0
    """

    def __init__(
        self,
        budget_s: float,
        read: Callable[[], float] = perf_counter,
        read_processor: Callable[[], float] = process_time,
    ) -> None:
        self.budget_s = budget_s
        self.own_s = 0.0
        self._read, self._read_processor = read, read_processor
        self._start_s, self._processor_start_s = read(), read_processor()
        self._durations: list[tuple[float, float]] = []  # of runs, by the wall and of the processor
        self._watched_s = 0.0  # by the wall; watching costs more than a small step

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._read() - self._start_s

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget_s - self.elapsed_s

    @contextmanager
    def timing_run(self, *, is_watched: bool = False) -> Iterator[None]:
        """Take the time of a run in a ``with`` block."""
        wall, processor = self._read(), self._read_processor()
        try:
            yield
        finally:
            if is_watched:
                self._watched_s = self._read() - wall
            else:
                self._durations.append((self._read() - wall, self._read_processor() - processor))

    def pays_for(self, runs: float) -> bool:
        """Return True if the time that is left is enough for so many runs; before any, for one like the watched one."""
        if not self._durations:
            return self.left_s >= self._watched_s
        wall, processor = (median(durations) for durations in zip(*self._durations, strict=True))
        if self.left_s < runs * wall:
            return False
        used = self._read_processor() - self._processor_start_s
        limit = max(MIN_S, MAX_RUNS * self.own_s) * max(1.0, self.budget_s / NORMAL_BUDGET_S)
        return not self.own_s or limit - used >= runs * processor
