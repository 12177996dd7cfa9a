"""Designs: the number of trainings of each kind in a comparison, fixed before the first of them."""

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

PROPOSAL_ROUNDS = 8  # of a refined study; each round uses the scores of the rounds before


class InterimAnalysis(NamedTuple):
    """A test after a fixed number of studies or seeds that drops the contenders shown to be worse.

    Attributes:
        size: The number of studies, or of seeds, that each contender has by then.
        alpha: The level of the test: the chance of an error among all contenders.
    """

    size: int
    alpha: float


@dataclass(frozen=True)
class Design:
    """The number of trainings of each kind, for each contender.

    A study is one search with its own random draws, then a choice, then an evaluation. A race trains the chosen
    setting of each contender from fresh seeds until the contenders are told apart.

    Attributes:
        draws: Settings that a study draws and trains once.
        retrained: The best settings of a study that are trained again.
        reseeds: Fresh seeds from which each of these is trained. Their mean chooses the winner of the study.
        judged: Fresh seeds that evaluate the winner of a study.
        ranking: The interim analyses of the ranking. Without them there is one study, and optimizers are not ranked.
        finalists: The best settings of the pool that are trained again before the race. The pool holds the settings
            that the first eight studies retrained. Zero: the retraining seeds decide.
        refinals: Fresh seeds from which each finalist is trained. Their mean chooses the setting that races.
        race: The interim analyses of the race.
        value: Fresh seeds that measure the recommended setting.
        pruned: Stop most of the drawn settings early, and draw as many more as that pays for.
        refined: Let a model propose the second half of the draws.
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
        """The largest number of studies of a contender."""
        return self.ranking[-1].size if self.ranking else 1

    @property
    def trainings_per_study(self) -> int:
        """The number of trainings of one contender in one study."""
        return self.draws + self.retrained * self.reseeds + (self.judged if self.ranking else 0)

    @property
    def most_trainings(self) -> int:
        """The number of trainings of a contender that is never dropped, without those of the value."""
        finals = self.finalists * self.refinals
        return self.studies * self.trainings_per_study + finals + self.race[-1].size + self.race[0].size

    def rounds(self, draws: int) -> list[range]:
        """Return the numbers of the trials of a study, round by round.

        Args:
            draws: The number of settings of the study.

        Returns:
            The trials that are drawn at random, then those of each round of proposals. A round may be empty.
        """
        proposals = draws // 2 if self.refined else 0
        cuts = [draws - proposals + proposals * k // PROPOSAL_ROUNDS for k in range(PROPOSAL_ROUNDS + 1)]
        return [range(cuts[0]), *(range(*ends) for ends in pairwise(cuts))]

    def to_json(self) -> dict[str, Any]:
        """Return the design as plain dicts and lists, for the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Design":
        """Return the design that ``to_json`` stored."""
        analyses = {
            name: tuple(InterimAnalysis(*analysis) for analysis in stored[name]) for name in ("ranking", "race")
        }
        return cls(**stored | analyses)


@dataclass(frozen=True)
class SettingDesign:
    """The rules of an adaptive search for one setting (question S), fixed before the first training.

    The search gets everything that the later stages do not need. So a budget that lasts longer than predicted buys more
    search, and one that ends sooner cuts the later stages in their order.

    Attributes:
        finalists: The settings, of all contenders, that are trained again from fresh seeds. The best default or
            starting point is another one.
        final_seeds: These seeds, for each finalist. Their mean chooses.
        racers: The settings that race: the best of each of the few best contenders. A default or starting point that
            is about as good is another one.
        race: The interim analyses of the race. Empty: no race.
        value: Fresh seeds that measure the recommended setting.
        rounds: The search proposes in so many rounds or more; a round fills the workers if it can.
        stops: True to stop trainings of the search that are hopeless by their reports.
    """

    finalists: int
    final_seeds: int
    racers: int
    race: tuple[InterimAnalysis, ...]
    value: int
    rounds: int = 8
    stops: bool = False

    @property
    def reserved(self) -> int:
        """The largest number of trainings after the search."""
        race = (self.racers + 1) * self.race[-1].size if self.race else 0
        with_start = self.finalists + 1 if self.finalists else 0
        return with_start * self.final_seeds + race + self.value

    @classmethod
    def for_trainings(cls, trainings: float, num_contenders: int, *, stops: bool = False) -> "SettingDesign":
        """Return the design for a budget of so many whole trainings; the smaller it is, the larger is the search.

        Args:
            trainings: Whole trainings that the budget pays for.
            num_contenders: The number of contenders; one alone runs no race.
            stops: True to stop hopeless trainings of the search.

        Example:
            >>> SettingDesign.for_trainings(20, num_contenders=9).reserved
            5
        """
        rules = next(rules for least, rules in reversed(_SETTING_DESIGNS) if trainings >= least or not least)
        rules = replace(rules, stops=stops)
        is_alone = num_contenders < 2
        return (
            replace(rules, racers=0, race=()) if is_alone else replace(rules, racers=min(rules.racers, num_contenders))
        )

    def to_json(self) -> dict[str, Any]:
        """Return the design as plain dicts and lists, for the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "SettingDesign":
        """Return the design that ``to_json`` stored."""
        return cls(**stored | {"race": tuple(InterimAnalysis(*analysis) for analysis in stored["race"])})


def analyses(*pairs: tuple[int, float]) -> tuple[InterimAnalysis, ...]:
    """Return interim analyses of these sizes and levels, in order."""
    return tuple(InterimAnalysis(size, alpha) for size, alpha in pairs)


# Each is for budgets of so many trainings and more. The levels of the analyses of a race sum to 5 %.
_SETTING_DESIGNS = (
    (0, SettingDesign(finalists=0, final_seeds=0, racers=0, race=(), value=0)),
    (8, SettingDesign(finalists=0, final_seeds=0, racers=0, race=(), value=2)),
    (15, SettingDesign(finalists=2, final_seeds=1, racers=0, race=(), value=2)),
    (40, SettingDesign(finalists=3, final_seeds=2, racers=0, race=(), value=5)),
    (100, SettingDesign(finalists=5, final_seeds=3, racers=3, race=analyses((5, 0.05)), value=8)),
    (300, SettingDesign(6, 4, 3, analyses((5, 0.01), (10, 0.015), (20, 0.025)), 20)),
    (1000, SettingDesign(8, 6, 4, analyses((10, 0.005), (20, 0.01), (40, 0.015), (80, 0.02)), 40)),
)


def design_from_json(stored: dict[str, Any]) -> Design | SettingDesign:
    """Return a stored design of either kind."""
    return SettingDesign.from_json(stored) if "racers" in stored else Design.from_json(stored)
