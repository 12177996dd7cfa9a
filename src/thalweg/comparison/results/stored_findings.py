"""Stored findings: the decision procedure, applied to a plan and its stored trials."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from thalweg.comparison.contenders.contender import Settings
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.conclusion import conclude
from thalweg.comparison.protocol.design import Design, SettingDesign
from thalweg.comparison.protocol.procedure import Evidence, Findings, decide
from thalweg.comparison.protocol.race import Race
from thalweg.comparison.protocol.studies import Ranking, Studies, rank
from thalweg.comparison.protocol.trial import RunTrials, SettingId, TrialRequest, TrialScore
from thalweg.comparison.results.records import ComparisonRecord, TrialKey, TrialRecord
from thalweg.comparison.results.scoring import plan_covering, trial_score
from thalweg.errors import StoreError

LATER_STAGES = ("final", "race", "value")  # of an adaptive search


class MissingTrialError(StoreError):
    """A training that a decision needs is not stored: the time was over before it, or its row is damaged."""

    def __init__(self, key: TrialKey) -> None:
        super().__init__(
            f"{key.contender}: all trainings of the comparison must be stored, and one is not (stage {key.stage}, "
            f"study {key.study}, trial {key.trial}, seed {key.seed}). "
            "Run the same compare command again to train what is missing."
        )


def key_of(request: TrialRequest, plan: ComparisonPlan) -> TrialKey:
    """Return the key under which the store holds a requested training of the studies."""
    stage, study, index = request.seed
    seed = derive(plan.seed, f"{stage}/{study}", index)
    return TrialKey(request.stage, request.contender, request.study, request.trial, seed)


def key_of_setting(request: TrialRequest, plan: ComparisonPlan) -> TrialKey:
    """Return the key under which the store holds a training that an adaptive search requested."""
    return key_of(request, plan)._replace(study=plan.setting_study)


def decide_by_plan(record: ComparisonRecord, run_trials: RunTrials) -> Findings:
    """Return the findings of a comparison whose design is one of studies and a race.

    Args:
        record: The comparison with its plan.
        run_trials: A function from requests to scores. It trains, or reads the store.
    """
    plan = record.plan
    assert isinstance(plan.design, Design)
    return decide(
        plan.design,
        plan.draws,
        run_trials,
        cost=plan.costs(record.contenders),
        margin=plan.margin,
        trades=plan.prefer == "cheap",
        recommended=[contender.name for contender in record.contenders if contender.recommended],
    )


def rank_by_plan(plan: ComparisonPlan, run_trials: RunTrials) -> Ranking | None:
    """Return the ranking by the studies before an adaptive search, as far as the trainings go.

    An interim analysis counts if all of its studies have ended. None if the first one lacks a training, or if the plan
    has no such studies.

    Args:
        plan: The plan.
        run_trials: A function from requests to scores. It trains, or reads the store, and raises MissingTrialError if a
            training is missing.
    """
    ranking = None
    for count in range(1, 1 + (0 if plan.ranking is None else len(plan.ranking.ranking))):
        assert plan.ranking is not None
        design = replace(plan.ranking, ranking=plan.ranking.ranking[:count])
        try:
            ranking = rank(design, list(plan.draws), Studies(design, plan.draws, run_trials))
        except MissingTrialError:
            break
        if len(ranking.remaining) == 1:
            break
    return ranking


def look_up_trials(record: ComparisonRecord, trials: Iterable[TrialRecord]) -> RunTrials:
    """Return the function that answers requests of studies from stored trials; it raises MissingTrialError."""
    by_key = {trial.key: trial for trial in trials}

    def look_up(requests: Sequence[TrialRequest]) -> Mapping[TrialRequest, TrialScore]:
        scores = {}
        for request in requests:
            key = key_of(request, record.plan)
            if key not in by_key:
                raise MissingTrialError(key)
            scores[request] = trial_score(by_key[key], record.plan)
        return scores

    return look_up


def stored_findings(record: ComparisonRecord, trials: Sequence[TrialRecord]) -> Findings:
    """Return the findings of a comparison from its stored trials.

    An adaptive search always has an answer, which may be that no training has ended. Studies that were interrupted, or
    cut short by the time, answer which setting to use from what they have trained.

    Raises:
        MissingTrialError: If a finished comparison by studies lacks a training.
    """
    plan = plan_covering(record.plan, trials)
    record = replace(record, plan=plan)
    look_up = look_up_trials(record, trials)
    if not any(trial.result.status in ("ok", "diverged", "pruned") for trial in trials):
        return unended_findings(record, trials)
    if isinstance(plan.design, SettingDesign):
        return replace(conclude_by_plan(record, trials, plan.design), ranking=rank_by_plan(plan, look_up))
    try:
        return decide_by_plan(record, look_up)
    except MissingTrialError:
        if record.finished is not None:
            raise
    design = SettingDesign.for_trainings(len(trials), len(record.contenders))
    return conclude_by_plan(record, trials, design)


def plan_in_ranking(plan: ComparisonPlan, trials: Iterable[TrialRecord]) -> ComparisonPlan:
    """Return the plan of a comparison that ended in its ranking: that of its studies, since no search has begun.

    Args:
        plan: The plan of an unfinished comparison.
        trials: Its stored trials.
    """
    has_begun = plan.ranking is None or any(trial.study == plan.setting_study for trial in trials)
    return plan if plan.ranking is None or has_begun else replace(plan, design=plan.ranking, ranking=None)


def conclude_by_plan(record: ComparisonRecord, trials: Iterable[TrialRecord], design: SettingDesign) -> Findings:
    """Return the setting to use by the trainings of an adaptive search, or of studies that did not end."""
    plan = record.plan
    return conclude(
        design,
        {request: trial_score(trial, plan) for request, trial in setting_requests(plan, trials).items()},
        [contender.name for contender in record.contenders],
        cost=plan.costs(record.contenders),
        margin=plan.margin,
        trades=plan.prefer == "cheap",
    )


def unended_findings(record: ComparisonRecord, trials: Iterable[TrialRecord]) -> Findings:
    """Return what is known if no training has ended: the order at the last evaluation that all stopped ones have."""
    plan = record.plan
    names = [contender.name for contender in record.contenders]
    stopped = {trial.contender: trial for trial in trials if trial.result.status == "stopped"}
    step = common_step(stopped.values())
    values = {name: _value_at(trial, step, plan.selected_on) for name, trial in stopped.items()}
    ahead = sorted(
        (name for name in names if name in values and math.isfinite(values[name])),
        key=lambda name: plan.scale.cost(values[name]),
    )
    return Findings(
        ranking=None,
        chosen_settings={name: SettingId(stopped[name].study, stopped[name].trial) for name in ahead},
        race=Race(
            scores={name: [] for name in ahead},
            completed={name: [] for name in ahead},
            dropped=[],
            remaining=ahead,
            within=ahead[:1],
            settled="unended",
            recommended=next(iter(ahead), None),
            seeds_needed=None,
        ),
        value_scores=[],
        untuned_scores={},
        recommended_scores={},
        evidence=Evidence(0, len(stopped), 0, 0, 0, {}, [name for name in names if name not in ahead]),
    )


def common_step(stopped: Iterable[TrialRecord]) -> int:
    """Return the last step at which all of these trainings were evaluated that were evaluated after a step at all."""
    steps = [{evaluation.step for evaluation in trial.result.evaluations} for trial in stopped]
    evaluated = [each for each in steps if max(each, default=0) > 0]
    shared: set[int] = set.intersection(*evaluated) if evaluated else set()
    return max(shared, default=0) or min((max(each) for each in evaluated), default=0)


def _value_at(trial: TrialRecord, step: int, split: str) -> float:
    """The value of the last evaluation up to a step."""
    values = [getattr(each, split) for each in trial.result.evaluations if 0 < each.step <= step]
    return values[-1] if values else math.nan


def setting_requests(plan: ComparisonPlan, trials: Iterable[TrialRecord]) -> dict[TrialRequest, TrialRecord]:
    """Return the trials from which a setting is chosen, by the requests that an adaptive search makes for them."""
    is_search = isinstance(plan.design, SettingDesign)
    requests: dict[TrialRequest, TrialRecord] = {}
    by_stage: dict[str, list[TrialRecord]] = {stage: [] for stage in ("search", *LATER_STAGES)}
    for trial in trials:
        if trial.stage in by_stage and trial.result.status != "stopped":
            by_stage[trial.stage].append(trial)
    for stage, members in by_stage.items():
        numbers = {} if stage == "search" else _seed_numbers(plan, stage, {trial.seed for trial in members})
        for trial in members:
            if is_search and trial.study != plan.setting_study:
                continue  # of the studies that rank the optimizers
            study = 0 if is_search else trial.study
            seed = (stage, 0, numbers.get(trial.seed, 0))
            requests[TrialRequest(stage, trial.contender, study, trial.trial, seed)] = trial
    return requests


def _seed_numbers(plan: ComparisonPlan, stage: str, seeds: set[int]) -> dict[int, int]:
    """Return the number of each seed of a stage; where trainings are missing, numbers are left out."""
    numbers: dict[int, int] = {}
    for index in range(4 * len(seeds) + 64):
        seed = derive(plan.seed, f"{stage}/0", index)
        if seed in seeds:
            numbers[seed] = index
        if len(numbers) == len(seeds):
            break
    return numbers


def best_of_studies(plan: ComparisonPlan, trials: Iterable[TrialRecord], count: int) -> list[tuple[str, Settings]]:
    """Return the best settings of the studies of each contender, by their retrainings, or by the search without any.

    Args:
        plan: The plan.
        trials: All stored trials.
        count: The number of settings of each contender.
    """
    groups: dict[tuple[str, str], dict[tuple[int, int], list[TrialRecord]]] = {}
    for trial in trials:
        if trial.stage in ("retrain", "search") and trial.study != plan.setting_study and trial.result.status == "ok":
            by_setting = groups.setdefault((trial.contender, trial.stage), {})
            by_setting.setdefault((trial.study, trial.trial), []).append(trial)
    best: list[tuple[str, Settings]] = []
    for name in plan.draws:
        by_setting = groups.get((name, "retrain")) or groups.get((name, "search"), {})
        scores = {
            number: fmean(trial_score(trial, plan).selection_score for trial in members)
            for number, members in by_setting.items()
        }
        ranked = sorted(scores, key=lambda number: (scores[number], number))
        best += [(name, by_setting[number][0].settings) for number in ranked[:count]]
    return best
