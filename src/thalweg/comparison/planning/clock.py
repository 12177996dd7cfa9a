"""Clock and speed: the time that a comparison has used, what is left of it, and how many trainings that pays for.

A comparison that was interrupted goes on with the time that it had used before. Time between two sessions is free.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

RESERVE_SHARE, MAX_RESERVE_S = 0.02, 2.0  # of a budget, for the verdict and the report after the last training
OVERTIME_SHARE = 0.02  # of a budget, by which a training that was predicted to end in time may be late

NUM_BATCHES = 6  # the speed is that of so many batches of trainings, the latest ones

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


@dataclass
class Speed:
    """The measured speed of trainings; before the first measurement, that of the plan.

    The first batch of a session is cold: processes start, memory is reserved, kernels are compiled. It counts while it
    is alone.

    Attributes:
        predicted_s: Predicted seconds for each training while all workers train.
        predicted_latency_s: Predicted seconds of the smallest batch, a single training.

    Example:
        >>> speed = Speed(predicted_s=1.0, predicted_latency_s=2.0)
        >>> speed.add_batch(9.0, predicted_s=2.0, is_cold=True)
        >>> speed.training_s
        4.5
        >>> speed.add_batch(3.0, predicted_s=2.0)
        >>> speed.training_s, speed.latency_s
        (1.5, 3.0)
    """

    predicted_s: float
    predicted_latency_s: float
    _batches: list[tuple[float, float]] = field(default_factory=list)
    _cold: tuple[float, float] | None = None

    def add_batch(self, seconds: float, *, predicted_s: float, is_cold: bool = False) -> None:
        """Note a batch.

        Args:
            seconds: Its duration.
            predicted_s: Its predicted duration; trainings that were stopped early count as a share.
            is_cold: True for the first batch of a session.
        """
        if predicted_s <= 0:
            return
        if is_cold:
            self._cold = seconds, predicted_s
        else:
            self._batches = [*self._batches, (seconds, predicted_s)][-NUM_BATCHES:]

    @property
    def is_measured(self) -> bool:
        """True once a batch that was not cold has been measured."""
        return bool(self._batches)

    @property
    def _ratio(self) -> float:
        batches = self._batches or ([] if self._cold is None else [self._cold])
        if not batches:
            return 1.0
        return sum(seconds for seconds, _ in batches) / sum(predicted for _, predicted in batches)

    @property
    def training_s(self) -> float:
        """Seconds for each whole training while all workers train."""
        return self.predicted_s * self._ratio

    @property
    def latency_s(self) -> float:
        """Seconds of a single training."""
        return self.predicted_latency_s * self._ratio
