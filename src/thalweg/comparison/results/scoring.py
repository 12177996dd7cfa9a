"""Scoring: the scores of stored trials, for decisions and for display."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.protocol.trial import TrialScore
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.result import TrainingResult
from thalweg.comparison.training.target import FARTHEST


class ScaleChangedError(Exception):
    """A value has appeared that the scale of the scores so far cannot hold. All decisions are taken again."""


def plan_covering(plan: ComparisonPlan, trials: Iterable[TrialRecord]) -> ComparisonPlan:
    """Return the plan with the scale that the values of these trials require: a function of the set of trials.

    Args:
        plan: The plan, as it was made or covering other trials already.
        trials: Trials of the comparison.
    """
    if plan.target is not None or plan.is_provisional:  # times have a logarithm; without a scale there is no score
        return plan
    splits = {plan.selected_on, plan.judged_on}
    ended = (trial.result for trial in trials if trial.result.status == "ok")
    scale = plan.scale.covering([getattr(result, split) for result in ended for split in splits])
    return plan if scale is plan.scale else replace(plan, scale=scale)


def loss_of(result: TrainingResult, split: str, worst: float = math.inf) -> float:
    """Return the measured value of a training on a split.

    Args:
        result: The result of the training.
        split: The split.
        worst: The value of a training that did not end well: that of the scale, except for the training loss.
    """
    value: float = getattr(result, split)
    return value if result.status == "ok" and not math.isnan(value) else worst


def measured_value(result: TrainingResult, plan: ComparisonPlan) -> float:
    """Return the value that a comparison shows of a training: the evaluated loss, or the time to the target."""
    if plan.target is not None:
        return plan.target.time_of(result)
    return loss_of(result, plan.judged_on, plan.scale.worst)


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
    if result.status == "pruned" and isinstance(plan.design, SettingDesign) and trial.study == plan.setting_study:
        score = scale.score(result.validation, plan.selected_on)
        return TrialScore(score, score, completed=False, stopped=True)
    selected, evaluated = (
        getattr(result, split) if completed else math.nan for split in (plan.selected_on, plan.judged_on)
    )
    return TrialScore(
        scale.score(selected, plan.selected_on),
        scale.score(evaluated, plan.judged_on),
        completed=completed,
        # True for a value that is not a number.
        clipped=not scale.cost(evaluated) <= scale.cost(scale.untrained[plan.judged_on]),
    )
