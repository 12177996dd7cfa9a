"""Stored findings: the decision procedure, applied to a plan and its stored trials."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.procedure import Findings, decide
from thalweg.comparison.protocol.trial import RunTrials, TrialRequest, TrialScore
from thalweg.comparison.results.records import ComparisonRecord, TrialKey, TrialRecord
from thalweg.comparison.results.scoring import plan_covering, trial_score


def key_of(request: TrialRequest, plan: ComparisonPlan) -> TrialKey:
    """Return the key under which the store holds a requested training."""
    stage, study, index = request.seed
    seed = derive(plan.seed, f"{stage}/{study}", index)
    return TrialKey(request.stage, request.contender, request.study, request.trial, seed)


def decide_by_plan(record: ComparisonRecord, run_trials: RunTrials) -> Findings:
    """Return the findings of a comparison.

    Args:
        record: The comparison with its plan.
        run_trials: A function from requests to scores. It trains, or reads the store.
    """
    plan = record.plan
    return decide(
        plan.design,
        plan.draws,
        run_trials,
        cost=plan.costs(record.contenders),
        margin=plan.margin,
        trades=plan.prefer == "cheap",
        recommended=[contender.name for contender in record.contenders if contender.recommended],
    )


def stored_findings(record: ComparisonRecord, trials: Sequence[TrialRecord]) -> Findings:
    """Return the findings of a finished comparison from its stored trials.

    Raises:
        KeyError: If a trial is missing, so the comparison was not finished.
    """
    by_key = {trial.key: trial for trial in trials}
    plan = plan_covering(record.plan, trials)

    def look_up(requests: Sequence[TrialRequest]) -> Mapping[TrialRequest, TrialScore]:
        return {request: trial_score(by_key[key_of(request, plan)], plan) for request in requests}

    return decide_by_plan(replace(record, plan=plan), look_up)
