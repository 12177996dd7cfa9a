"""Plain results: the results of a contender as plain JSON. Numbers that are not finite become None."""

import math
from typing import Any

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.results.summary import Summary


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
        "value": None if summary.missed == len(summary.seeds) else _finite(summary.value.mean),
        "low": _finite(summary.value.low),
        "high": _finite(summary.value.high),
        "untuned": _finite(summary.untuned.mean),
        "recommended": None if summary.recommended is None else _finite(summary.recommended.mean),
        "missed": summary.missed,
        "example_error": _finite(summary.example_error),
        "worse_by": _finite(summary.worse_by),
        "train_loss": _finite(summary.train_loss),
        "rank": None if rank is None else [_finite(rank.mean), _finite(rank.low), _finite(rank.high)],
        "unlearnt": summary.value.unimproved,
        "bound": bool(summary.value.bound),
        "studies": summary.studies,
        "seeds": summary.seeds,
        "diverged": summary.diverged,
        "failed": summary.failed,
        "seconds": summary.seconds,
        "bytes": summary.state_bytes,
        "update_seconds": plan.step_s.get(summary.name),
        "code": summary.line,
        "way": plan.execution_modes[summary.name].reason,
        "at_edge": [edge.setting for edge in summary.at_edge],
        "range_extended": plan.times_extended[summary.name],
        "good_rates": summary.good_rates,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
