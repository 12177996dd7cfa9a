"""Design: how many trainings of each kind a comparison has, fixed before the first of them."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

REFINING = 8  # rounds in which settings are proposed; each knows what those before came to


class InterimAnalysis(NamedTuple):
    """After so many studies, or seeds: drop who is worse, at this level."""

    size: int
    alpha: float


@dataclass(frozen=True)
class Design:
    """How many trainings there are of each kind.

    A study draws `draws` settings and trains each once; its best `retrained` are trained from `reseeds` fresh seeds,
    which choose one; `judged` more seeds judge it. Without `ranking` there is one study, and optimizers are not ranked.
    The settings retrained in the first eight studies are a contender's pool: its `finalists` best are trained from
    `refinals` more seeds (none: the retrained seeds decide), which choose the one that races. `value` seeds measure the
    setting that is recommended. With `pruned`, most of the draws are given up early, and there are as many more of
    them. With `refined`, the second half of the draws is proposed by a model of those before.
    """

    draws: int
    retrained: int
    reseeds: int
    judged: int
    ranking: tuple[InterimAnalysis, ...]
    finalists: int
    refinals: int
    race: tuple[InterimAnalysis, ...]
    value: int
    pruned: bool = False
    refined: bool = False

    @property
    def studies(self) -> int:
        """How many studies a contender may get."""
        return self.ranking[-1].size if self.ranking else 1

    @property
    def trainings_of_a_study(self) -> int:
        """How many trainings one contender has in one study."""
        return self.draws + self.retrained * self.reseeds + (self.judged if self.ranking else 0)

    @property
    def most_trainings(self) -> int:
        """How many trainings a contender gets that is never dropped; the value comes once, for all of them."""
        finals = self.finalists * self.refinals
        return self.studies * self.trainings_of_a_study + finals + self.race[-1].size + self.race[0].size

    def rounds(self, draws: int) -> list[range]:
        """The trials of a study of so many: those that are drawn, then those of each round that proposes some."""
        refined = draws // 2 if self.refined else 0  # none of the one draw of who has nothing to search
        cuts = [draws - refined + refined * k // REFINING for k in range(REFINING + 1)]
        return [range(cuts[0]), *(range(*ends) for ends in pairwise(cuts))]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists, for the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Design":
        """The design that `to_json` stored."""
        looks = {name: tuple(InterimAnalysis(*look) for look in stored[name]) for name in ("ranking", "race")}
        return cls(**stored | looks)
