"""Score scale: the scale on which losses are compared, and the score of a training that diverged.

Losses differ by factors. So their logarithms are compared, and a margin is a share of the loss. A metric of the user's
own may be zero or negative; it is compared as it is. A training that diverged, or that ended worse than the untrained
model, counts as the untrained model. So one bad seed is bad, and cannot hide all others. This holds for choices and
tests; a value that is shown is the mean of the losses as they were measured.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

MARGIN = 0.03  # a difference of less than this share of the value is too small to matter


@dataclass(frozen=True)
class ScoreScale:
    """The map from losses to scores. Lower is better.

    Attributes:
        kind: ``log`` compares the logarithms of losses, ``linear`` the losses themselves.
        untrained: The loss before the first step, by split.
        resolution: A loss below this share of the untrained loss counts as this share of it.
    """

    kind: Literal["log", "linear"]
    untrained: dict[str, float]
    resolution: float = 1e-12

    def score(self, loss: float, split: str) -> float:
        """Return the score of a loss on a split, never above that of the untrained model."""
        return self.unclipped_score(loss if self.is_improvement(loss, split) else self.untrained[split], split)

    def is_improvement(self, loss: float, split: str) -> bool:
        """Return True if a loss is below that of the untrained model. A loss that is not a number is not."""
        return loss < self.untrained[split]

    def unclipped_score(self, loss: float, split: str) -> float:
        """Return the score of a finite loss as it was measured, also if it is worse than the untrained model's."""
        return math.log(max(loss, self.resolution * self.untrained[split])) if self.kind == "log" else loss

    def loss(self, score: float) -> float:
        """Return the loss that has this score. For a mean of logarithms it is the geometric mean of the losses."""
        return math.exp(score) if self.kind == "log" else score

    def margin(self, leader: float) -> float:
        """Return the difference in scores that is too small to matter beside a leader with this score."""
        return math.log1p(MARGIN) if self.kind == "log" else MARGIN * abs(leader)

    def worse_by(self, score: float, leader: float) -> float:
        """Return the share of the leader's loss by which a score is worse."""
        if self.kind == "log":
            return math.expm1(score - leader)
        return (score - leader) / abs(leader) if leader else math.nan

    def excess(self, difference: float, leader: float) -> float:
        """Return a difference in scores as the logarithm of a ratio of losses.

        On the linear scale the ratio is one plus the share by which a loss is worse. A loss that is better by the same
        share gets the same number with the sign reversed, because a zero or a negative loss has no logarithm.

        Args:
            difference: A score minus the leader's score from the same seed.
            leader: The leader's mean score.

        Returns:
            The logarithm of the ratio. Not a number if the scale is linear and the leader's score is zero.
        """
        if self.kind == "log":
            return difference
        share = difference / abs(leader) if leader else math.nan
        return math.copysign(math.log1p(abs(share)), share)

    def to_json(self) -> dict[str, Any]:
        """Return the scale as a plain dict, for the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "ScoreScale":
        """Return the scale that ``to_json`` stored."""
        return cls(**stored)


def scale_for(untrained: dict[str, float], *, own_metric: bool, dtype: torch.dtype = torch.float32) -> ScoreScale:
    """Return the scale of a task.

    Args:
        untrained: The loss before the first step, by split.
        own_metric: The task is measured by a metric of the user's own.
        dtype: The dtype of the model.

    Returns:
        A linear scale for a metric of the user's own or for losses that are not positive, else a logarithmic one.
    """
    # Near an optimum a loss is a square, and parameters are not told apart below eps.
    resolution = min(1e-12, 100 * torch.finfo(dtype).eps ** 2)
    return ScoreScale("linear" if own_metric or min(untrained.values()) <= 0 else "log", untrained, resolution)
