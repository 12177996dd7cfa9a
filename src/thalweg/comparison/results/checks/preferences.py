"""Preferences: those of the validation split, where the test split has another: the winner is then not settled."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.summary import Summary
from thalweg.statistics import critical_value

MIN_PAIRS = 3  # of trainings from the same seeds, for a test
ALPHA = 0.05


class Preference(NamedTuple):
    """A contender that is shown to be better than another on the validation split, and is not better on the test split.

    Attributes:
        name: Its name.
        by: By how much the other one is worse on validation, as ``ScoreScale.worse_by`` says it.
        seeds: The number of seeds on which both were trained.
    """

    name: str
    by: float
    seeds: int


def preferred_on_validation(
    record: ComparisonRecord, summaries: Sequence[Summary], winner: Summary
) -> list[Preference]:
    """Return the contenders that validation data prefer to the winner, whom test data prefer; the best first.

    The test is that of the race, on the validation values of the same trainings: a difference beyond the margin, shown
    at a level of 5 % among all contenders that raced.

    Args:
        record: The comparison.
        summaries: The results of its contenders.
        winner: The contender that is recommended.
    """
    plan, scale = record.plan, record.plan.scale
    if plan.target is not None or plan.selected_on == plan.judged_on:
        return []
    own = {trial.seed: trial.result for trial in winner.raced if trial.result.status == "ok"}
    preferences = []
    for summary in summaries:
        pairs = [
            (trial.result, own[trial.seed])
            for trial in summary.raced
            if trial.result.status == "ok" and trial.seed in own and summary.name != winner.name
        ]
        if len(pairs) < MIN_PAIRS:
            continue
        validation, test = (
            [[scale.unclipped_score(getattr(result, split), split) for result in pair] for pair in pairs]
            for split in (plan.selected_on, plan.judged_on)
        )
        gains = [leader - score for score, leader in validation]
        leader_mean = fmean(leader for _, leader in validation)
        critical = critical_value(ALPHA, max(2, len(summaries)), len(pairs) - 1)
        is_shown = fmean(gains) > critical * stdev(gains) / math.sqrt(len(pairs))
        is_worse_on_test = fmean(score - leader for score, leader in test) >= 0
        if is_shown and is_worse_on_test and fmean(gains) > scale.margin(leader_mean, plan.selected_on):
            by = scale.worse_by(leader_mean, fmean(score for score, _ in validation))
            preferences.append(Preference(summary.name, by, len(pairs)))
    return sorted(preferences, key=lambda preference: -preference.by)
