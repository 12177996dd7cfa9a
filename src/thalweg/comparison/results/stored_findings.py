"""Stored findings: the decision procedure, applied to a plan and its stored trials."""

from collections.abc import Mapping, Sequence

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.procedure import Findings, decide
from thalweg.comparison.protocol.trial import RunTrials, TrialRequest, TrialScore
from thalweg.comparison.results.records import ComparisonRecord, TrialKey, TrialRecord
from thalweg.comparison.results.scoring import trial_score
from thalweg.errors import StoreError


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
        margin=plan.scale.margin,
        recommended=[contender.name for contender in record.contenders if contender.recommended],
    )


def stored_findings(record: ComparisonRecord, trials: Sequence[TrialRecord]) -> Findings:
    """Return the findings of a finished comparison from its stored trials.

    Raises:
        StoreError: If a trial is missing: it was damaged, or the comparison was not finished.
    """
    by_key = {trial.key: trial for trial in trials}

    def look_up(requests: Sequence[TrialRequest]) -> Mapping[TrialRequest, TrialScore]:
        keys = {request: key_of(request, record.plan) for request in requests}
        missing = next((key for key in keys.values() if key not in by_key), None)
        if missing is not None:
            raise StoreError(
                f"{record.workload.name}: all trainings of the comparison must be stored, and one of "
                f"{missing.contender} is not (stage {missing.stage}, study {missing.study}, trial {missing.trial}, "
                f"seed {missing.seed}). Run the same compare command again to train what is missing."
            )
        return {request: trial_score(by_key[key], record.plan) for request, key in keys.items()}

    return decide_by_plan(record, look_up)
