"""Speed: how long trainings take in a comparison that is under way."""

from dataclasses import dataclass, field

NUM_BATCHES = 6  # the speed is that of so many batches of trainings, the latest ones


@dataclass
class Speed:
    """The measured speed of trainings; before the first measurement, that of the plan.

    The first batch is cold: processes start, memory is reserved, kernels are compiled. It counts while it is alone.

    Attributes:
        predicted_s: Predicted seconds for each training while all workers train.
        predicted_latency_s: Predicted seconds of the smallest batch, a single training.
        capacity: Trainings that run at once.

    Example:
        >>> speed = Speed(predicted_s=1.0, predicted_latency_s=2.0, capacity=2)
        >>> speed.add_batch(9.0, 2, 2.0)
        >>> speed.add_batch(3.0, 2, 2.0)
        >>> speed.training_s, speed.latency_s
        (1.5, 3.0)
    """

    predicted_s: float
    predicted_latency_s: float
    capacity: int
    _batches: list[tuple[float, float]] = field(default_factory=list)

    def add_batch(self, seconds: float, trainings: int, whole: float) -> None:
        """Note a batch.

        Args:
            seconds: Its duration.
            trainings: The trainings in it.
            whole: The same in whole trainings: one that was stopped early counts as a share.
        """
        if whole > 0:
            self._batches.append((seconds * min(1.0, trainings / self.capacity), whole))

    @property
    def training_s(self) -> float:
        """Seconds for each whole training while all workers train."""
        warm = (self._batches[1:] or self._batches)[-NUM_BATCHES:]
        if not warm:
            return self.predicted_s
        return sum(seconds for seconds, _ in warm) / sum(whole for _, whole in warm)

    @property
    def latency_s(self) -> float:
        """Seconds of a single training."""
        if self.predicted_s <= 0:
            return self.training_s * self.capacity
        return self.predicted_latency_s * self.training_s / self.predicted_s
