"""Scale: what differences between losses are measured on, and what a training that diverged counts.

Losses differ by factors, so they are compared by their logarithms, and a margin is a share; a metric of the user's own,
which may be zero or negative, is compared as it is. What diverged, or ended worse than the untrained model, counts as
the untrained model: nothing was learnt. So one bad seed is bad, and cannot hide everything else. That is for choosing
and testing; a value that is shown is what was measured.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

MARGIN = 0.03  # a difference of less than this share of the value is too small to matter


@dataclass(frozen=True)
class ScoreScale:
    """How losses become scores: `untrained` holds what is measured before the first step, by split.

    A loss that is this `resolution` of the untrained one is as good as zero.
    """

    kind: Literal["log", "linear"]
    untrained: dict[str, float]
    resolution: float = 1e-12

    def score(self, loss: float, split: str) -> float:
        """The score of a loss on a split; lower is better, never above the untrained model's."""
        return self.measured(loss if self.learnt(loss, split) else self.untrained[split], split)

    def learnt(self, loss: float, split: str) -> bool:
        """Whether a loss is better than the untrained model's; not a number is not."""
        return loss < self.untrained[split]

    def measured(self, loss: float, split: str) -> float:
        """The score of a finite loss as it was measured, be it worse than the untrained model's."""
        return math.log(max(loss, self.resolution * self.untrained[split])) if self.kind == "log" else loss

    def loss(self, score: float) -> float:
        """The loss that has this score. Of a mean score on the logarithmic scale: the geometric mean of the losses."""
        return math.exp(score) if self.kind == "log" else score

    def margin(self, leader: float) -> float:
        """The difference in scores that is too small to matter, beside a leader with this score."""
        return math.log1p(MARGIN) if self.kind == "log" else MARGIN * abs(leader)

    def worse_by(self, score: float, leader: float) -> float:
        """By what share of the leader's loss a score is worse."""
        if self.kind == "log":
            return math.expm1(score - leader)
        return (score - leader) / abs(leader) if leader else math.nan

    def excess(self, difference: float, leader: float) -> float:
        """A difference in scores as the logarithm of a ratio of losses, beside a leader with this mean score.

        Where losses are compared as they are, a ratio is one and the share by which a loss is worse; a loss that is
        better by a share gets the same with the sign reversed, since a zero or a negative loss has no logarithm. Beside
        a leader of zero nothing is a share: not a number.
        """
        if self.kind == "log":
            return difference
        share = difference / abs(leader) if leader else math.nan
        return math.copysign(math.log1p(abs(share)), share)

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, for the store."""
        return asdict(self)


def scale_for(untrained: dict[str, float], *, own_metric: bool, dtype: torch.dtype = torch.float32) -> ScoreScale:
    """The scale of a task whose losses before the first step are these, of a model of this dtype."""
    # Near an optimum a loss is a square, and parameters are not told apart below eps.
    resolution = min(1e-12, 100 * torch.finfo(dtype).eps ** 2)
    return ScoreScale("linear" if own_metric or min(untrained.values()) <= 0 else "log", untrained, resolution)
