"""Scoring: the scores of stored trials, for decisions and for display."""

import math
from collections.abc import Sequence

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.protocol.trial import TrialScore
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.target import FARTHEST


def loss_of(result: TrainingResult, split: str) -> float:
    """Return the loss of a training on a split, or infinity if the training did not end well."""
    value: float = getattr(result, split)
    return value if result.status == "ok" and not math.isnan(value) else math.inf


def measured_value(result: TrainingResult, plan: ComparisonPlan) -> float:
    """Return the value that a comparison shows of a training: the evaluated loss, or the time to the target."""
    return loss_of(result, plan.judged_on) if plan.target is None else plan.target.time_of(result)


def unclipped_scores(trials: Sequence[TrialRecord], plan: ComparisonPlan) -> list[float]:
    """Return the scores of the measured values.

    A lost training has no value. It counts as the untrained model, or as a whole training that missed its target.
    """
    values = [measured_value(trial.result, plan) for trial in trials]
    counted = [value if math.isfinite(value) else plan.scale.untrained[plan.judged_on] for value in values]
    return [plan.scale.unclipped_score(value, plan.judged_on) for value in counted]


def trial_score(trial: TrialRecord, plan: ComparisonPlan) -> TrialScore:
    """Return the scores by which the procedure decides."""
    result, scale = trial.result, plan.scale
    completed = result.status == "ok"
    if plan.target is not None:
        time = plan.target.time_of(result)
        score = scale.score(time, plan.judged_on)
        if math.isfinite(time):
            return TrialScore(score, score)
        # Among settings that miss the target, the one that ends nearest to it is chosen.
        shortfall = plan.target.shortfall(result.evaluations) if completed else FARTHEST
        return TrialScore(score + shortfall, score, completed=False, clipped=True)
    selected, evaluated = (
        getattr(result, split) if completed else math.nan for split in (plan.selected_on, plan.judged_on)
    )
    return TrialScore(
        scale.score(selected, plan.selected_on),
        scale.score(evaluated, plan.judged_on),
        completed=completed,
        clipped=not evaluated <= scale.untrained[plan.judged_on],  # true for a loss that is not a number
    )
