"""Plain results: a comparison as plain JSON, each part made by itself. Numbers that are not finite become None."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from thalweg.comparison.failures import Failure
from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.presentation.overview import FinishedComparison, compared_value
from thalweg.comparison.results.environment import hardware_of_trials
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.summary import Summary
from thalweg.parts import Parts, as_plain_json, finite


class Results(FinishedComparison, Protocol):
    """The results of a comparison; ``Comparison`` explains them."""

    parts: Parts

    @property
    def margin(self) -> str: ...
    @property
    def failures(self) -> list[Failure]: ...
    @property
    def trainings(self) -> Sequence[TrialRecord]: ...


def comparison_json(results: Results) -> dict[str, Any]:
    """Return the results of a comparison as plain JSON; ``Comparison.to_json`` says more.

    Args:
        results: The comparison.
    """
    plan, make = results.plan, results.parts.make
    values = {
        "task": results.record.workload.name,
        "metric": make("the metric", lambda: results.metric, ""),
        "maximize": plan.maximize,
        "scale": plan.scale.kind,
        "margin": make("the margin", lambda: results.margin, ""),
        "result": results.record.workload.result,
        "optimum": plan.optimum,
        "trainings": make("the trainings", lambda: len(results.trainings), 0),
        "contenders": [
            part
            for summary in make("the results of the contenders", lambda: results.contenders, [])
            if (part := make(f"the result of {summary.name}", partial(summary_json, summary, plan), None))
        ],
        "verdict": make("the verdict", lambda: vars(results.verdict), None),
        "hindsight": make("the half-sample check", lambda: results.half_sample_check, []),
        "cautions": make("the cautions", lambda: results.cautions, []),
        "code": make("the code", lambda: results.code, ""),
        "device": {
            "name": plan.device,
            "reason": plan.device_reason,
            "hardware": make("the hardware", lambda: hardware_of_trials(results.trainings), []),
        },
        "failures": make("the failed trainings", lambda: [vars(failure) for failure in results.failures], []),
    }
    return as_plain_json(values | {"missing_parts": [vars(part) for part in results.parts.missing]})


def summary_json(summary: Summary, plan: ComparisonPlan) -> dict[str, Any]:
    """Return the results of a contender as plain JSON.

    Args:
        summary: The results.
        plan: The plan of the comparison.
    """
    rank = summary.rank
    return {
        "name": summary.name,
        "settings": summary.settings,
        "searched": summary.searched,
        # If every seed missed the target, there is no time, only a bound.
        "value": None if summary.missed == len(summary.seeds) else finite(summary.value.mean),
        **_ends(summary.value),
        "untuned": None if summary.untuned is None else finite(summary.untuned.mean),
        "recommended": None if summary.recommended is None else finite(summary.recommended.mean),
        "yours": None if summary.yours is None else finite(summary.yours.mean),
        "missed": summary.missed,
        "example_error": finite(summary.example_error),
        "worse_by": finite(summary.worse_by),
        "compared_value": finite(compared_value(summary, plan).mean),  # over the seeds of `worse_by`
        "worse_by_text": summary.worse_by_text,
        "metrics": {name: {"value": finite(metric.mean), **_ends(metric)} for name, metric in summary.metrics.items()},
        "train_loss": finite(summary.train_loss),
        "rank": None if rank is None else [finite(rank.mean), finite(rank.low), finite(rank.high)],
        "unlearnt": summary.value.unimproved,
        "bound": bool(summary.value.bound),
        "studies": summary.studies,
        "seeds": summary.seeds,
        "diverged": summary.diverged,
        "failed": summary.failed,
        "failed_trainings": summary.failed_trainings,
        "seconds": summary.seconds,
        "bytes": summary.state_bytes,
        "update_seconds": plan.step_s.get(summary.name),
        "code": summary.line,
        "way": plan.execution_modes[summary.name].reason,
        "at_edge": [edge.setting for edge in summary.at_edge],
        "range_extended": plan.times_extended[summary.name],
        "good_rates": summary.good_rates,
    }


def _ends(estimate: Estimate) -> dict[str, float | None]:
    """Return the ends of an interval; none for a value that all seeds share, whose interval says nothing."""
    low, high = (math.nan, math.nan) if estimate.is_constant else (estimate.low, estimate.high)
    return {"low": finite(low), "high": finite(high)}
