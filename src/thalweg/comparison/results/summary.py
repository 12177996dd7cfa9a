"""Summary: the results of each contender, from stored trials. Nothing is trained here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.protocol import statistics
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.results.code_lines import lines_of_code
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.scoring import loss_of, measured_value, unclipped_scores
from thalweg.rules import Range

STAGES = ("search", "retrain", "judge", "final", "race", "value", "start", "recommended")
GOOD_RATE_MARGIN = 0.1  # a learning rate is good if its loss is at most this share above the best
_EDGE = 0.05  # a setting within this share of its range from an end lies at that end


@dataclass(frozen=True)
class Estimate:
    """The mean of measured losses over seeds or studies, with its 95 % interval.

    The losses are those that were measured, also where they are worse than the untrained model's.

    Attributes:
        mean: The mean on the scale of the comparison; infinite if no training ended well.
        low: The lower end of the interval.
        high: The upper end of the interval; infinite if some were lost.
        count: The number of seeds or studies.
        lost: How many of them were lost: a training diverged, failed or missed the target. They count as untrained, so
            the mean is a lower bound.
        unimproved: How many ended no better than the untrained model, the lost ones among them.
    """

    mean: float
    low: float
    high: float
    count: int
    lost: int = 0
    unimproved: int = 0

    @property
    def bound(self) -> str:
        """A mark to print before a mean that is a lower bound, else an empty string."""
        return "≥ " if self.lost and math.isfinite(self.mean) else ""

    def is_improvement(self, untrained: float) -> bool:
        """Return True if the mean is below the untrained loss, and so are at least half of the seeds."""
        return self.mean < untrained and 2 * self.unimproved <= self.count


@dataclass(frozen=True)
class RangeEdge:
    """A chosen setting that lies at an end of its search range.

    Attributes:
        setting: The name of the setting.
        value: The chosen value.
        end: ``lower`` or ``upper``.
        limit: The value of the range at that end.
    """

    setting: str
    value: float
    end: Literal["lower", "upper"]
    limit: float


@dataclass(frozen=True)
class Summary:
    """The results of one contender.

    Attributes:
        name: The name of the contender.
        about: The contender in one sentence.
        settings: The chosen values of all settings.
        searched: The names of the settings that were searched.
        values: The measured losses, or times to the target, behind ``value``.
        value: The estimate of what the chosen settings reach: over the seeds of the race, or for the recommended
            contender over seeds that nothing else used.
        untuned: The same for the contender's defaults.
        recommended: The same for thalweg's settings to start from. None if there are none.
        example_error: The standard error of one training's test loss over the test examples. No number of seeds
            makes it smaller. Not a number if the test examples are unknown.
        rank: The mean evaluation over the studies. None if optimizers were not ranked.
        studies: The number of its studies.
        worse_by: The share by which it is worse than the leader of the race, over the same seeds.
        train_loss: The median final training loss.
        seeds: The seeds of the race.
        diverged: Seeds of the race that diverged.
        failed: Seeds of the race that raised an error.
        missed: Seeds of the race that missed the target.
        seconds: The median time of a training.
        state_bytes: The optimizer's state for the model of the task. None if the model is unknown.
        state_numbers: The numbers of state for each parameter.
        line: The line of code that makes the optimizer.
        at_edge: The important settings that lie at an end of their search range.
        good_rates: The factor between the smallest and the largest learning rate whose loss is within 10 % of the best.
            None if it is unknown.
        trials: All its trials, by stage.
    """

    name: str
    about: str
    settings: dict[str, Any]
    searched: list[str]
    values: list[float]
    value: Estimate
    untuned: Estimate
    recommended: Estimate | None
    example_error: float
    rank: Estimate | None
    studies: int
    worse_by: float
    train_loss: float
    seeds: list[int]
    diverged: int
    failed: int
    missed: int
    seconds: float
    state_bytes: int | None
    state_numbers: int
    line: str
    at_edge: list[RangeEdge]
    good_rates: float | None
    trials: dict[str, list[TrialRecord]]

    @property
    def lost(self) -> int:
        """The seeds of the race that were lost: diverged, failed, or missed the target."""
        return self.diverged + self.failed + self.missed


def summarize(
    contender: ContenderRecord, trials: Sequence[TrialRecord], plan: ComparisonPlan, findings: Findings
) -> Summary:
    """Return the summary of a contender.

    Args:
        contender: The contender.
        trials: All stored trials of a finished comparison.
        plan: The plan of the comparison.
        findings: What the trials decided.
    """
    by_stage: dict[str, list[TrialRecord]] = {stage: [] for stage in STAGES}
    for trial in trials:
        if trial.contender == contender.name:
            by_stage[trial.stage].append(trial)
    raced = by_stage["race"]
    measured = by_stage["value"] or raced
    chosen = raced[0].settings
    seeds = [trial.seed for trial in raced]
    statuses = [trial.result.status for trial in raced]
    studies: dict[int, list[TrialRecord]] = {}
    for trial in by_stage["judge"]:
        studies.setdefault(trial.study, []).append(trial)
    ranges = contender.space | plan.ranges[contender.name]
    return Summary(
        name=contender.name,
        about=contender.about,
        settings={**contender.start, **chosen},
        searched=list(chosen),
        values=[measured_value(trial.result, plan) for trial in measured],
        value=_estimate_over_seeds(measured, plan),
        untuned=_estimate_over_seeds(by_stage["start"], plan),
        recommended=_estimate_over_seeds(by_stage["recommended"], plan) if by_stage["recommended"] else None,
        example_error=_example_error(measured) if plan.judged_on == "test" else math.nan,
        rank=_estimate(list(studies.values()), plan) if studies else None,
        studies=len(studies),
        worse_by=_worse_by_leader(raced, trials, plan, findings),
        train_loss=median(loss_of(trial.result, "train") for trial in measured),
        seeds=seeds,
        diverged=statuses.count("diverged"),
        failed=statuses.count("failed"),
        missed=statuses.count("ok") - findings.race.completed[contender.name].count(True),
        seconds=median(trial.result.seconds for trial in raced),
        state_bytes=contender.state_bytes,
        state_numbers=contender.state_numbers,
        line="\n".join(lines_of_code(contender, chosen, raced[0].result.optimizers, plan.schedules[contender.name])),
        at_edge=find_edges({name: ranges[name] for name in contender.remarkable}, chosen),
        good_rates=good_rates(by_stage["search"], plan),
        trials=by_stage,
    )


def _worse_by_leader(
    raced: Sequence[TrialRecord], trials: Sequence[TrialRecord], plan: ComparisonPlan, findings: Findings
) -> float:
    """The share by which the mean of raced trials is worse than the leader's, over the same seeds."""
    seeds = {trial.seed for trial in raced}
    leader = findings.race.remaining[0]
    beside = [trial for trial in trials if trial.contender == leader and trial.stage == "race" and trial.seed in seeds]
    return plan.scale.worse_by(fmean(unclipped_scores(raced, plan)), fmean(unclipped_scores(beside, plan)))


def _example_error(trials: Sequence[TrialRecord]) -> float:
    errors = [trial.result.test_error for trial in trials if math.isfinite(trial.result.test_error)]
    return fmean(errors) if errors else math.nan


def _estimate_over_seeds(trials: Sequence[TrialRecord], plan: ComparisonPlan) -> Estimate:
    return _estimate([[trial] for trial in trials], plan)


def _estimate(groups: Sequence[Sequence[TrialRecord]], plan: ComparisonPlan) -> Estimate:
    """The estimate over groups of trials: one trial for each seed, or the evaluation trials of each study."""
    values = [[measured_value(trial.result, plan) for trial in group] for group in groups]
    lost = sum(not all(map(math.isfinite, group)) for group in values)
    unimproved = sum(not all(plan.scale.is_improvement(value, plan.judged_on) for value in group) for group in values)
    if all(trial.result.status != "ok" for group in groups for trial in group):  # nothing was measured
        return Estimate(math.inf, math.inf, math.inf, len(groups), lost, unimproved)
    scores = statistics.interval([fmean(unclipped_scores(group, plan)) for group in groups])
    mean, low, high = (plan.scale.loss(score) for score in (scores.mean, scores.low, scores.high))
    return Estimate(mean, low, math.inf if lost else high, len(groups), lost, unimproved)


def good_rates(searched: Sequence[TrialRecord], plan: ComparisonPlan) -> float | None:
    """Return the factor between the smallest and the largest learning rate whose loss is close to the best.

    Args:
        searched: The trials of a contender's search.
        plan: The plan of the comparison.

    Returns:
        A factor of at least 1. None if no learning rate was searched or none ended well, or if settings were pruned,
        because a pruned setting might have been good.
    """
    rates = [
        (loss_of(trial.result, plan.selected_on), trial.settings["lr"]) for trial in searched if "lr" in trial.settings
    ]
    if not rates or plan.design.pruned:
        return None
    losses = sorted(loss for loss, _ in rates)
    best = losses[len(losses) // 20]  # not the very best of many, which was lucky with its one seed
    if not math.isfinite(best):
        return None
    good = [rate for loss, rate in rates if loss <= best + GOOD_RATE_MARGIN * abs(best)]
    return max(good) / min(good)


def find_edges(ranges: Mapping[str, Range], settings: Settings) -> list[RangeEdge]:
    """Return the settings within a twentieth of an end of their range: a better value may lie beyond.

    Args:
        ranges: The search ranges, by setting.
        settings: The chosen values. A setting without a value is left out.
    """
    edges = []
    for name, bounds in ranges.items():
        if name not in settings:
            continue
        end = bounds.end_near(settings[name], _EDGE)
        if end is not None:
            edges.append(RangeEdge(name, settings[name], end, bounds.low if end == "lower" else bounds.high))
    return edges
