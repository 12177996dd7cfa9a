"""Procedure: which trainings a comparison requests, and what their scores decide. It trains nothing itself.

It answers two questions and never mixes them:

    O, which optimizer    Each optimizer is tuned anew in independent studies (search, choice, evaluation), which are
                          paired by seed. Each interim analysis drops the optimizers that are shown to be worse.
    S, which setting      The best setting that was searched for each contender runs a race over fresh seeds. The
                          remaining contenders are the best one, or within a margin of it, or not told apart. Seeds that
                          nothing else used measure the recommended setting.

`decide` is a pure function of the scores. So the same code runs live, from a store, and on a bank of stored trainings
whose truth is known (`benchmarks/calibration`). Counts, analyses and levels are in the `Design`, fixed beforehand.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from thalweg.comparison.protocol.design import Design
from thalweg.comparison.protocol.race import Comparable, Race, RaceRunner
from thalweg.comparison.protocol.studies import Ranking, Studies, choose_settings, rank
from thalweg.comparison.protocol.trial import (
    RECOMMENDED,
    START,
    RunTrials,
    SettingId,
    TrialRequest,
    evaluation_scores,
    flatten,
    seed_requests,
)


@dataclass(frozen=True)
class Evidence:
    """The trainings behind the recommended setting of an adaptive search.

    Attributes:
        searched: Settings that the search trained to their end, of all contenders.
        stopped: Settings that it stopped early.
        final_seeds: Fresh seeds that chose the recommended setting among finalists; 0 if the search alone did.
        race_seeds: Fresh seeds from which it ran the race.
        value_seeds: Fresh seeds that measured its value; 0: the value is that of the race, of the finals, or of the
            search, which looks better than it is.
        selection_scores: The best mean selection score of each contender's chosen setting.
        untried: The contenders of which no training ended.
    """

    searched: int
    stopped: int
    final_seeds: int
    race_seeds: int
    value_seeds: int
    selection_scores: dict[str, float]
    untried: list[str]


@dataclass(frozen=True)
class Findings:
    """The decisions that follow from the trainings.

    Attributes:
        ranking: The ranking of the optimizers. None if the design has none.
        chosen_settings: The setting of each contender that ran the race.
        race: The race.
        value_scores: The evaluation scores of the recommended setting, from fresh seeds.
        untuned_scores: The evaluation scores of each contender's defaults, on the first seeds of the race.
        recommended_scores: The same for the settings to start from, for the contenders that have some.
        evidence: The trainings behind an adaptive search's answer. None if studies answered.
    """

    ranking: Ranking | None
    chosen_settings: dict[str, SettingId]
    race: Race
    value_scores: list[float]
    untuned_scores: dict[str, list[float]]
    recommended_scores: dict[str, list[float]]
    evidence: Evidence | None = None


def decide(
    design: Design,
    draws: Mapping[str, int],
    run_trials: RunTrials,
    *,
    cost: Mapping[str, Comparable],
    margin: Callable[[float], float],
    trades: bool = False,
    recommended: Sequence[str] = (),
) -> Findings:
    """Request trainings until both questions are answered.

    Args:
        design: The number of trainings of each kind.
        draws: The number of settings in a study, by contender. It differs from the design's if a contender has nothing
            to search, or if studies are pruned.
        run_trials: A function from requests to the scores of these trainings. It may train, or read a store.
        cost: The cost of each contender. The cheapest of those within the margin is recommended.
        margin: A function from the leader's mean score to the difference in scores that is too small to matter.
        trades: True if scores that are shown to be worse, but lie within the margin, may be traded for a lesser cost.
        recommended: The contenders that have recommended settings to start from.

    Returns:
        The ranking, the race, and the scores of the recommended setting and of the untuned settings.
    """
    names = list(draws)
    studies = Studies(design, draws, run_trials)
    ranking = None
    if design.ranking:
        ranking = rank(design, names, studies)
    else:
        studies.extend_to(1, names)
    settings = choose_settings(design, names, studies, run_trials)
    race = RaceRunner(design, settings, run_trials, margin, trades=trades).run(cost)
    value_scores: list[float] = []
    if race.recommended is not None and design.value:
        requests = seed_requests("value", race.recommended, settings[race.recommended], range(design.value))
        value_scores = evaluation_scores(requests, run_trials(requests))
    untuned, advised = _untuned_requests(design, names, recommended)
    scores = run_trials(flatten([*untuned.values(), *advised.values()]))
    return Findings(
        ranking,
        settings,
        race,
        value_scores,
        {name: evaluation_scores(requests, scores) for name, requests in untuned.items()},
        {name: evaluation_scores(requests, scores) for name, requests in advised.items()},
    )


def _untuned_requests(
    design: Design, names: Sequence[str], recommended: Sequence[str]
) -> tuple[dict[str, list[TrialRequest]], dict[str, list[TrialRequest]]]:
    """Return the trainings of the defaults and of the recommended settings, on the first seeds of the race."""
    seeds = [("race", 0, k) for k in range(design.race[0].size)]
    return (
        {name: [TrialRequest("start", name, *START, seed) for seed in seeds] for name in names},
        {name: [TrialRequest("recommended", name, *RECOMMENDED, seed) for seed in seeds] for name in recommended},
    )
