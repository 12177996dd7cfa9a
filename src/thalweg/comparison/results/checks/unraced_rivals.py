"""Unraced rivals: contenders that others kept out of the race, although they are much better on the seeds they have."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from thalweg import statistics
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.scoring import unclipped_scores
from thalweg.comparison.results.summary import Summary

ALPHA = 0.05


class UnracedRival(NamedTuple):
    """A contender that did not race, and is better than the winner on the seeds that both have.

    Attributes:
        name: Its name.
        by: By how much it is worse, as ``ScoreScale.worse_by`` says it: below zero.
        seeds: The number of seeds that both have.
        spread_seeds: The winner's own seeds, whose spread is less.
    """

    name: str
    by: float
    seeds: int
    spread_seeds: int


def better_unraced(record: ComparisonRecord, summaries: Sequence[Summary], winner: Summary) -> list[UnracedRival]:
    """Return the contenders that did not race, and are better than the winner where both were trained; the best first.

    Who races is decided by the values that choose. Here the values that evaluate are compared, over the seeds of the
    latest stage that both have: those of the finals, or the one of the search. One seed shows no spread, so a
    difference counts if it is larger than the margin and than the winner's own seeds allow, at a level of 5 % among
    all contenders that did not race.

    Args:
        record: The comparison.
        summaries: The results of its contenders.
        winner: The contender that is recommended.
    """
    plan = record.plan
    if not winner.raced:
        return []
    setting = winner.raced[0].study, winner.raced[0].trial
    of_winner = {
        (trial.stage, trial.seed): trial for trial in winner.trainings if (trial.study, trial.trial) == setting
    }
    spread = unclipped_scores([trial for key, trial in of_winner.items() if key[0] in ("race", "value")], plan)
    unraced = [summary for summary in summaries if not summary.raced and summary is not winner]
    rivals = []
    for summary in unraced:
        own = [trial for trial, _ in summary.beside_leader if (trial.stage, trial.seed) in of_winner]
        if not own:
            continue
        scores = unclipped_scores(own, plan)
        beside = unclipped_scores([of_winner[trial.stage, trial.seed] for trial in own], plan)
        differences = [score - leader for score, leader in zip(scores, beside, strict=True)]
        mean = fmean(beside)
        is_shown = statistics.surely_below(differences, spread, ALPHA, len(unraced) + 1)
        if is_shown and fmean(differences) < -plan.margin(mean):
            by = plan.scale.worse_by(fmean(scores), mean)
            rivals.append(UnracedRival(summary.name, by, len(own), len(spread)))
    return sorted(rivals, key=lambda rival: rival.by)
