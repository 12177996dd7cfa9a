"""Speed: how long trainings take in a comparison that is under way, beside the plan's prediction."""

from dataclasses import dataclass, field

NUM_BATCHES = 6  # the speed is that of so many batches of trainings, the latest ones


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
