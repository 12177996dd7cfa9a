"""The page: one self-contained HTML file, made from a stored comparison alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from thalweg.comparison import Comparison
from thalweg.comparison.results.summary import STAGES, Summary
from thalweg.errors import StoreError
from thalweg.report import charts

# A stage whose name in the store would be taken for the recommendation.
_STAGES = {"recommended": "starting point"}


def write(comparison: Comparison, path: str | Path) -> Path:
    """Write the report of a comparison to a file, and return its path; raises StoreError if it cannot be written."""
    return written(Path(path), render(comparison))


def written(path: Path, page: str) -> Path:
    """Write a page to a file, and return its path; raises StoreError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: the report must be writable, got {error}. Choose another place.") from error
    return path


def render(comparison: Comparison) -> str:
    """The report as text: HTML with its style and charts inside."""
    return filled("page.html", _facts(comparison))


def filled(template: str, facts: Mapping[str, Any]) -> str:
    """A page made from a template of this folder, which needs every fact it names."""
    environment = Environment(
        loader=PackageLoader("thalweg.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(facts)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """The colour of each contender, the same in all charts of a page."""
    return {name: charts.PALETTE[index % len(charts.PALETTE)] for index, name in enumerate(names)}


def _facts(comparison: Comparison) -> dict[str, Any]:
    """Everything the template shows."""
    header, plan, verdict = comparison.record, comparison.plan, comparison.verdict
    names = [described.name for described in header.contenders]
    colours = colours_of(names)
    summaries = comparison.contenders
    return {
        "task": header.workload,
        "metric": comparison.metric,
        "verdict": verdict,
        "code": comparison.code,
        "leader": summaries[0].name,
        "design": plan.design,
        "schedule": _common_schedule(comparison),
        "optimum": plan.optimum,
        "rows": [_row(comparison, summary) for summary in summaries],
        "colours": colours,
        "charts": _charts(comparison, colours),
        "cautions": comparison.cautions,
        "hindsight": comparison.half_sample_check,
        # Whose value comes from seeds of its own.
        "fresh": next((one.name for one in summaries if one.trials["value"]), None),
        "advised": any(one.recommended is not None for one in summaries),
        "target": plan.target,
        "looks": next(iter(plan.schedules.values())).num_evaluations,
        "ways": {name: plan.execution_modes[name].reason for name in names},
        "seed": plan.seed,
        "seeds": {_STAGES.get(stage, stage): sorted(_seeds(summaries[0], stage)) for stage in STAGES},
        "environment": header.environment,
        "created": header.created,
        "finished": header.finished,
        "number": charts.number,
        "digits": charts.digits,
        "trainings": sum(len(entries) for summary in summaries for entries in summary.trials.values()),
        "training_s": sum(
            entry.result.seconds for one in summaries for entries in one.trials.values() for entry in entries
        ),
    }


def _common_schedule(comparison: Comparison) -> str:
    """The schedule of those that have none of their own."""
    own = {one.name: one.schedule for one in comparison.record.contenders}
    horizons = comparison.plan.schedules
    return next((horizons[name].schedule for name, schedule in own.items() if schedule is None), "different")


def _seeds(summary: Summary, stage: str) -> set[int]:
    return {entry.seed for entry in summary.trials[stage]}


def _row(comparison: Comparison, summary: Summary) -> dict[str, Any]:
    """One line of the table."""
    plan, searched = comparison.plan, summary.trials["search"]
    every = [entry for entries in summary.trials.values() for entry in entries]
    return {
        "name": summary.name,
        "about": summary.about,
        "value": summary.value,
        "train_loss": summary.train_loss,
        "above": None if plan.optimum is None else max(0.0, summary.train_loss - plan.optimum),
        "settings": ", ".join(f"{name} {summary.settings[name]:g}" for name in summary.searched) or "none to tune",
        "diverged": summary.lost,
        "lost": sum(entry.result.status not in ("ok", "pruned") for entry in searched),
        "searched": len(searched),
        "seconds": summary.seconds,
        "worse_by": summary.worse_by,
        "untuned": summary.untuned,
        "advised": summary.recommended,
        "step_s": plan.step_s.get(summary.name),
        "own_schedule": next(one.schedule for one in comparison.record.contenders if one.name == summary.name),
        "rank": summary.rank,
        "studies": summary.studies,
        "good_rates": summary.good_rates,
        "seeds": len(summary.seeds),
        "state": (
            f"{4 * summary.state_numbers} B a parameter"
            if summary.state_bytes is None
            else f"{summary.state_bytes:,} B"
        ),
        "line": summary.line,
        "tied": summary.name in comparison.verdict.tied,
        "recommended": summary.name == comparison.verdict.recommended,
        "failures": sorted({entry.result.message for entry in every if entry.result.message}),
    }


def _charts(comparison: Comparison, colours: dict[str, str]) -> dict[str, Any]:
    summaries, plan = comparison.contenders, comparison.plan
    measured = comparison.record.workload.measured
    over = " above the optimum" if plan.optimum else ""
    # A time to a target has no optimum, whatever the loss has.
    value_optimum = plan.optimum if plan.target is None else None
    value_label = comparison.metric + (over if plan.target is None else "")
    has_curves = any(len(entry.result.evaluations) > 1 for one in summaries for entry in one.trials["race"])
    splits = []
    for split in ("train", "validation"):
        # A surface has no data: all splits are the one function. A user's function may not report the training loss.
        losses = [
            getattr(look, split)
            for one in summaries
            for entry in one.trials["race"]
            for look in entry.result.evaluations
        ]
        if any(math.isfinite(loss) for loss in losses) and not (split == "validation" and plan.judged_on == "train"):
            splits.append(split)
    limits = charts.limits_of(summaries, plan.selected_on, optimum=plan.optimum)
    rated = [one for one in summaries if any("lr" in entry.settings for entry in one.trials["search"])]
    rate_label = f"{measured[plan.selected_on]}{over}"
    return {
        "rate_label": rate_label,
        "standings": (
            charts.standings(summaries, colours, value_label, optimum=value_optimum)
            if any(math.isfinite(one.value.mean) for one in summaries)
            else None
        ),
        "curves": [
            charts.learning_curves(
                summaries,
                colours,
                split,
                f"{measured[split]}{over if split == 'train' else ''}",
                optimum=plan.optimum if split == "train" else None,
            )
            for split in splits
            if has_curves
        ],
        "rates": [
            charts.learning_rates(one, colours[one.name], plan.selected_on, rate_label, limits, optimum=plan.optimum)
            for one in rated
            if limits
        ],
    }
