"""Summary: the results of each contender, from stored trials. Nothing is trained here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Literal

from thalweg import statistics
from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.planning.adaptive.search_space import is_rate
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.protocol.design import Design
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.protocol.trial import RECOMMENDED, START, USER_TRIAL, SettingId
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.functions.code_lines import lines_of_code, uses_at
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.scoring import loss_of, measured_value, trial_score, unclipped_scores
from thalweg.rules import Range
from thalweg.tasks.description import Described

VALUE_STAGES = ("value", "race", "final", "search")  # that may measure a chosen setting, the best measurement first
STAGES = ("search", "retrain", "judge", "final", "race", "value", "start", "recommended")
GOOD_RATE_MARGIN = 0.1  # a learning rate is good if its loss is at most this share above the best
_EDGE = 0.05  # a setting within this share of its range from an end lies at that end


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


@dataclass(frozen=True, repr=False)
class Summary(Described):
    """The results of one contender.

    Attributes:
        name: The name of the contender.
        about: The contender in one sentence.
        settings: The chosen values of all settings.
        searched: The names of the settings that were searched.
        values: The measured losses, or times to the target, behind ``value``.
        value: The estimate of what the chosen settings reach, over the seeds of ``value_stage``.
        untuned: The same for the contender's defaults. None if they were not trained.
        recommended: The same for thalweg's settings to start from. None if there are none.
        example_error: The standard error of one training over the test examples; not a number if they are unknown.
        rank: The mean evaluation over the studies. None if optimizers were not ranked.
        studies: The number of its studies.
        worse_by: By how much it is worse than the leader of the race, over the same seeds: a share of the leader's
            value, or a difference (``ScoreScale.worse_by``).
        train_loss: The median final training loss.
        seeds: The seeds of the race; without a race, of ``value``.
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
        beside_leader: Its trials at the chosen setting, each with the leader's of the race, the finals or the search.
        raced: The trials of the race at the chosen setting.
        yours: The same as ``untuned`` for the user's own setting, the best of several. None if there is none.
        worse_by_text: ``worse_by`` as text.
        value_stage: The stage of ``value``: ``value``, ``race``, ``final`` or ``search``; empty if no training ended.
        metrics: The means of the further numbers that were recorded, over the seeds of ``value``, by name.
    """

    name: str
    about: str
    settings: dict[str, Any]
    searched: list[str]
    values: list[float]
    value: Estimate
    untuned: Estimate | None
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
    worse_by_text: str = "–"
    yours: Estimate | None = None
    value_stage: str = "race"
    raced: list[TrialRecord] = field(default_factory=list)
    beside_leader: list[tuple[TrialRecord, TrialRecord]] = field(default_factory=list)
    metrics: dict[str, Estimate] = field(default_factory=dict)

    def _describe(self) -> str:
        value = self.value
        interval = f" ({value.low:.4g} to {value.high:.4g}, {value.count} seeds)" if math.isfinite(value.high) else ""
        settings = ", ".join(f"{name}={self.settings[name]}" for name in self.searched) or "no setting searched"
        return f"Summary of {self.name}: {value.bound}{value.mean:.4g}{interval}, {settings}, {self.lost} seeds lost"

    @property
    def lost(self) -> int:
        """The seeds of the race that were lost: diverged, failed, or missed the target."""
        return self.diverged + self.failed + self.missed

    @property
    def trainings(self) -> list[TrialRecord]:
        """All its trials."""
        return [trial for trials in self.trials.values() for trial in trials]

    @property
    def failed_trainings(self) -> int:
        """The trainings of all stages that raised an error."""
        return sum(trial.result.status == "failed" for trial in self.trainings)


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
    is_unended = findings.race.settled == "unended"
    setting = findings.chosen_settings.get(contender.name)
    chosen = _chosen_trials(by_stage, setting, plan, with_stopped=is_unended)
    value_stage = next((stage for stage in VALUE_STAGES if chosen[stage]), "")
    measured = chosen[value_stage] if value_stage else []
    raced = chosen["race"] or measured
    settings = next((trial.settings for stage in VALUE_STAGES for trial in chosen[stage]), {})
    seeds = [trial.seed for trial in raced]
    statuses = [trial.result.status for trial in raced]
    completed = [not is_unended and trial_score(trial, plan).completed for trial in raced]
    studies: dict[int, list[TrialRecord]] = {}
    for trial in by_stage["judge"]:
        studies.setdefault(trial.study, []).append(trial)
    ranges = contender.space | plan.ranges.get(contender.name, {})
    for name in filter(is_rate, ranges):  # an adaptive search goes on where the best value lies at an end
        tried = (trial.settings for trial in by_stage["search"])
        ranges[name] = ranges[name].including(values[name] for values in tried if name in values)
    beside_leader = _beside_leader(chosen, trials, plan, findings)
    worse_by = _worse_by_leader(beside_leader, plan)
    return Summary(
        name=contender.name,
        about=contender.about,
        settings={**contender.start, **settings},
        searched=list(settings),
        values=[measured_value(trial.result, plan) for trial in measured],
        value=estimate_over_seeds(measured, plan),
        untuned=_estimate_of_start(by_stage, "start", START, plan),
        recommended=_estimate_of_start(by_stage, "recommended", RECOMMENDED, plan),
        yours=_estimate_of_user_settings(len(contender.user_settings), by_stage, plan),
        example_error=_example_error(measured) if plan.judged_on == "test" else math.nan,
        rank=_estimate(list(studies.values()), plan) if studies and findings.ranking is not None else None,
        studies=len(studies),
        worse_by=worse_by,
        worse_by_text=plan.scale.worse_by_in_words(worse_by) if _has_ended(beside_leader) else "–",
        metrics=_metrics(measured),
        train_loss=median([loss_of(trial.result, "train") for trial in measured] or [math.nan]),
        seeds=seeds,
        diverged=statuses.count("diverged"),
        failed=statuses.count("failed"),
        missed=statuses.count("ok") - completed.count(True),
        seconds=median([trial.result.seconds for trial in raced] or [math.nan]),
        state_bytes=contender.state_bytes,
        state_numbers=contender.state_numbers,
        line="\n".join(lines_of_code(contender, settings, uses_at(settings, by_stage), plan.schedules[contender.name])),
        at_edge=find_edges({name: ranges[name] for name in contender.remarkable}, settings),
        good_rates=good_rates(by_stage["search"], plan),
        trials=by_stage,
        value_stage=value_stage,
        raced=chosen["race"],
        beside_leader=beside_leader,
    )


def _chosen_trials(
    by_stage: Mapping[str, Sequence[TrialRecord]],
    setting: SettingId | None,
    plan: ComparisonPlan,
    *,
    with_stopped: bool = False,
) -> dict[str, list[TrialRecord]]:
    """The trials of a contender at its chosen setting, by stage."""
    if isinstance(plan.design, Design):
        number = None if setting is None else (setting.study, setting.trial)
    else:
        number = None if setting is None else (plan.setting_study, setting.trial)
    return {
        stage: [
            trial
            for trial in by_stage[stage]
            if (trial.study, trial.trial) == number and (with_stopped or trial.result.status != "stopped")
        ]
        for stage in VALUE_STAGES
    }


def _estimate_of_user_settings(
    count: int, by_stage: Mapping[str, Sequence[TrialRecord]], plan: ComparisonPlan
) -> Estimate | None:
    """The estimate of the best of the user's settings; None if none was measured."""
    first, step = USER_TRIAL, -1
    if isinstance(plan.design, Design):  # among the draws of the first study
        first, step = (0 if plan.design.ranking else 1), 1
    numbers = [SettingId(0, first + step * number) for number in range(count)]
    estimates = [_estimate_of_start({**by_stage, "": []}, "", number, plan) for number in numbers]
    return min(filter(None, estimates), key=lambda estimate: plan.scale.cost(estimate.mean), default=None)


def _estimate_of_start(
    by_stage: Mapping[str, Sequence[TrialRecord]], stage: str, setting: SettingId, plan: ComparisonPlan
) -> Estimate | None:
    """The estimate of untuned settings: of their own stage, or of the latest one of an adaptive search."""
    if by_stage[stage]:
        return estimate_over_seeds(by_stage[stage], plan)
    trials = _chosen_trials(by_stage, setting, plan)
    measured = next((trials[stage] for stage in VALUE_STAGES[1:] if trials[stage]), None)
    return None if measured is None else estimate_over_seeds(measured, plan)


def _beside_leader(
    chosen: Mapping[str, Sequence[TrialRecord]], trials: Sequence[TrialRecord], plan: ComparisonPlan, findings: Findings
) -> list[tuple[TrialRecord, TrialRecord]]:
    """The trials at a chosen setting with the leader's from the same seeds, in the latest stage that has them."""
    leader = next(iter(findings.race.remaining), None)
    by_stage: dict[str, list[TrialRecord]] = {stage: [] for stage in STAGES}
    for trial in trials:
        if trial.contender == leader:
            by_stage[trial.stage].append(trial)
    of_leader = _chosen_trials(by_stage, findings.chosen_settings.get(leader or ""), plan)
    for stage in VALUE_STAGES[1:]:
        by_seed = {trial.seed: trial for trial in of_leader[stage]}
        pairs = [(trial, by_seed[trial.seed]) for trial in chosen[stage] if trial.seed in by_seed]
        if pairs:
            return pairs
    return []


def _has_ended(pairs: Sequence[tuple[TrialRecord, TrialRecord]]) -> bool:
    """Return True if a training of the contender has ended. Else its difference from the leader is that of a bound."""
    return any(own.result.status == "ok" for own, _ in pairs)


def _worse_by_leader(pairs: Sequence[tuple[TrialRecord, TrialRecord]], plan: ComparisonPlan) -> float:
    """By how much the mean is worse than the leader's, over the same seeds. Not a number if they share none."""
    if not pairs:
        return math.nan
    own, leaders = (fmean(unclipped_scores(column, plan)) for column in zip(*pairs, strict=True))
    return plan.scale.worse_by(own, leaders)


def _example_error(trials: Sequence[TrialRecord]) -> float:
    errors = [trial.result.test_error for trial in trials if math.isfinite(trial.result.test_error)]
    return fmean(errors) if errors else math.nan


def estimate_over_seeds(trials: Sequence[TrialRecord], plan: ComparisonPlan) -> Estimate:
    """Return the estimate of trainings of one setting, one for each seed."""
    return _estimate([[trial] for trial in trials], plan)


def _estimate(groups: Sequence[Sequence[TrialRecord]], plan: ComparisonPlan) -> Estimate:
    """The estimate over groups of trials: one trial for each seed, or the evaluation trials of each study."""
    scale, worst = plan.scale, plan.scale.worst
    failed = sum(any(trial.result.status == "failed" for trial in group) for group in groups)
    if all(trial.result.status != "ok" for group in groups for trial in group):  # nothing was measured
        return Estimate(worst, worst, worst, len(groups), len(groups), len(groups), scale.maximize, failed)
    values = [[measured_value(trial.result, plan) for trial in group] for group in groups]
    lost = sum(not all(map(math.isfinite, group)) for group in values)
    unimproved = lost
    if scale.has_start:
        unimproved = sum(not all(scale.is_improvement(value, plan.judged_on) for value in group) for group in values)
    scores = statistics.interval([fmean(unclipped_scores(group, plan)) for group in groups])
    mean, best_end, worst_end = (scale.loss(score) for score in (scores.mean, scores.low, scores.high))
    low, high = sorted((scale.possible(best_end), worst if lost else scale.possible(worst_end)))
    return Estimate(mean, low, high, len(groups), lost, unimproved, scale.maximize, failed)


def _metrics(trials: Sequence[TrialRecord]) -> dict[str, Estimate]:
    """The means of the further numbers of these trials with their t intervals, by name. Only finite numbers count."""
    columns: dict[str, list[float]] = {}
    for trial in trials:
        for name, value in trial.result.metrics.items() if trial.result.status == "ok" else ():
            if math.isfinite(value):
                columns.setdefault(name, []).append(value)
    intervals = {name: statistics.interval(values) for name, values in columns.items()}
    return {name: Estimate(each.mean, each.low, each.high, len(columns[name])) for name, each in intervals.items()}


def good_rates(searched: Sequence[TrialRecord], plan: ComparisonPlan) -> float | None:
    """Return the factor between the smallest and the largest learning rate whose loss is close to the best.

    Args:
        searched: The trials of a contender's search.
        plan: The plan of the comparison.

    Returns:
        A factor of at least 1. None if no learning rate was searched or none ended well, or if settings were pruned,
        because a pruned setting might have been good.
    """
    scale, split = plan.scale, plan.selected_on
    rates = [
        (loss_of(trial.result, split, scale.worst), trial.settings["lr"])
        for trial in searched
        if "lr" in trial.settings
    ]
    if not rates or (plan.studies is not None and plan.studies.pruned):
        return None
    values = sorted((value for value, _ in rates), key=scale.cost)
    best = values[len(values) // 20]  # not the very best of many, which was lucky with its one seed
    if not math.isfinite(best):
        return None
    margin = GOOD_RATE_MARGIN
    good = [rate for value, rate in rates if math.isfinite(value) and scale.is_close(value, best, margin, split)]
    return max(good) / min(good)


def find_edges(ranges: Mapping[str, Range], settings: Settings) -> list[RangeEdge]:
    """Return the settings within a twentieth of an end of their range: a better value may lie beyond.

    Args:
        ranges: The search ranges, by setting.
        settings: The chosen values. A setting without a value is left out.
    """
    edges = []
    for name, bounds in ranges.items():
        end = bounds.end_near(settings[name], _EDGE) if name in settings else None
        if end is not None:
            edges.append(RangeEdge(name, settings[name], end, bounds.low if end == "lower" else bounds.high))
    return edges
