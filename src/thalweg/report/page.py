"""The page of a comparison: one self-contained HTML file, made from the stored results alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from thalweg.comparison import Comparison
from thalweg.comparison.results.summary import GOOD_RATE_MARGIN, STAGES, Summary
from thalweg.comparison.results.terms import name_of_measure
from thalweg.comparison.training.workload_record import SPLITS
from thalweg.errors import StoreError
from thalweg.report import charts
from thalweg.tasks.measurement import with_article

# The stored name of this stage would be mistaken for the recommendation.
_STAGE_LABELS = {"recommended": "starting point"}


def write(comparison: Comparison, path: str | Path) -> Path:
    """Write the report of a comparison to a file.

    Args:
        comparison: A finished comparison.
        path: The HTML file. Its folder is made if it does not exist.

    Returns:
        The path of the file.

    Raises:
        StoreError: If the file cannot be written.
    """
    return write_page(Path(path), render(comparison))


def render(comparison: Comparison) -> str:
    """Return the report of a comparison as HTML, with its style and charts inside.

    Args:
        comparison: A finished comparison. The same comparison always gives the same text.
    """
    return render_template("page.html", _template_values(comparison))


def write_page(path: Path, page: str) -> Path:
    """Write a page to a file and return its path. Raises StoreError if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: the report must be writable, got {error}. Choose another place.") from error
    return path


def render_template(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template of this folder. A value that the template names and that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("thalweg.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(values)


def assign_colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each contender, the same in all charts of a page."""
    return {name: charts.PALETTE[index % len(charts.PALETTE)] for index, name in enumerate(names)}


def _template_values(comparison: Comparison) -> dict[str, Any]:
    record, plan, verdict = comparison.record, comparison.plan, comparison.verdict
    names = [contender.name for contender in record.contenders]
    colours = assign_colours(names)
    summaries = comparison.contenders
    entries = [entry for summary in summaries for entries in summary.trials.values() for entry in entries]
    return {
        "task": record.workload,
        "metric": comparison.metric,
        "verdict": verdict,
        "code": comparison.code,
        "leader": summaries[0].name,
        "design": plan.design,
        "schedule": _common_schedule(comparison),
        "optimum": plan.optimum,
        "rows": [_table_row(comparison, summary) for summary in summaries],
        "colours": colours,
        "charts": _charts(comparison, colours),
        "cautions": comparison.cautions,
        "half_sample_check": comparison.half_sample_check,
        # The contender whose value comes from seeds that no other stage used.
        "with_fresh_value": next((summary.name for summary in summaries if summary.trials["value"]), None),
        "has_user_settings": any(summary.yours is not None for summary in summaries),
        "has_starting_points": any(summary.recommended is not None for summary in summaries),
        "target": plan.target,
        "maximize": plan.scale.maximize,
        "metrics": list(dict.fromkeys(name for summary in summaries for name in summary.metrics)),
        "measured": {split: name_of_measure(record, split) for split in SPLITS},
        "choices": _choices(comparison),
        "with_article": with_article,
        "good_rate_margin": plan.scale.share_in_words(GOOD_RATE_MARGIN),
        "num_evaluations": next(iter(plan.schedules.values())).num_evaluations,
        "device": comparison.device,
        "execution_modes": {name: plan.execution_modes[name].reason for name in names},
        "seed": plan.seed,
        "seeds": {_STAGE_LABELS.get(stage, stage): sorted(_seeds(summaries[0], stage)) for stage in STAGES},
        "environment": record.environment,
        "created": record.created,
        "finished": record.finished,
        "format_number": charts.format_number,
        "format_digits": charts.format_digits,
        "num_trainings": len(entries),
        "training_s": sum(entry.result.seconds for entry in entries),
    }


def _choices(comparison: Comparison) -> str:
    """Return what decides: the data that choose and evaluate, the scale, and the measurement that counts."""
    record, plan = comparison.record, comparison.plan
    measured = {split: name_of_measure(record, split) for split in SPLITS}
    chosen, evaluated = measured[plan.selected_on], measured[plan.judged_on]
    start = f"The {chosen} chose and evaluates"
    if chosen != evaluated:
        start = f"The {chosen} chose, the {evaluated} evaluates"
    scale = "by the ratios of values" if plan.scale.kind == "log" else "by the differences of values"
    better = "higher" if plan.scale.maximize else "lower"
    counted = " Each training counts at its best validation." if record.workload.result == "best" else ""
    return f"{start}; {better} is better. Scores are compared {scale}.{counted}"


def _common_schedule(comparison: Comparison) -> str:
    """Return the schedule of the contenders that have none of their own."""
    own_schedules = {contender.name: contender.schedule for contender in comparison.record.contenders}
    schedules = comparison.plan.schedules
    return next((schedules[name].schedule for name, own in own_schedules.items() if own is None), "different")


def _seeds(summary: Summary, stage: str) -> set[int]:
    return {entry.seed for entry in summary.trials[stage]}


def _table_row(comparison: Comparison, summary: Summary) -> dict[str, Any]:
    """Return the values of one contender."""
    plan, searched = comparison.plan, summary.trials["search"]
    entries = [entry for entries in summary.trials.values() for entry in entries]
    contender = next(contender for contender in comparison.record.contenders if contender.name == summary.name)
    return {
        "name": summary.name,
        "about": summary.about,
        "value": summary.value,
        "train_loss": summary.train_loss,
        "above_optimum": None if plan.optimum is None else max(0.0, summary.train_loss - plan.optimum),
        "settings": ", ".join(f"{name} {summary.settings[name]:g}" for name in summary.searched) or "none to tune",
        "lost_seeds": summary.lost,
        "lost_settings": sum(entry.result.status not in ("ok", "pruned") for entry in searched),
        "num_settings": len(searched),
        "seconds": summary.seconds,
        "worse_by": summary.worse_by_text,
        "metrics": summary.metrics,
        "untuned": summary.untuned,
        "starting_point": summary.recommended,
        "yours": summary.yours,
        "step_s": plan.step_s.get(summary.name),
        "own_schedule": contender.schedule,
        "rank": summary.rank,
        "studies": summary.studies,
        "good_rates": summary.good_rates,
        "num_seeds": len(summary.seeds),
        "state": (
            f"{4 * summary.state_numbers} B a parameter"
            if summary.state_bytes is None
            else f"{summary.state_bytes:,} B"
        ),
        "line": summary.line,
        "tied": summary.name in comparison.verdict.tied,
        "recommended": summary.name == comparison.verdict.recommended,
        "failures": sorted({entry.result.message for entry in entries if entry.result.message}),
    }


def _charts(comparison: Comparison, colours: dict[str, str]) -> dict[str, Any]:
    summaries, plan = comparison.contenders, comparison.plan
    above = " above the optimum" if plan.optimum else ""
    # A time to a target has no optimum, even if the loss has.
    value_optimum = plan.optimum if plan.target is None else None
    value_label = comparison.metric + (above if plan.target is None else "")
    limits = charts.shared_loss_range(summaries, plan.selected_on, optimum=plan.optimum, maximize=plan.scale.maximize)
    searched_lr = [
        summary for summary in summaries if any("lr" in entry.settings for entry in summary.trials["search"])
    ]
    rate_label = f"{name_of_measure(comparison.record, plan.selected_on)}{above}"
    return {
        "rate_label": rate_label,
        "values": (
            charts.value_chart(summaries, colours, value_label, optimum=value_optimum)
            if any(math.isfinite(summary.value.mean) for summary in summaries)
            else None
        ),
        "curves": _learning_curves(comparison, colours, above),
        "rates": [
            charts.learning_rate_chart(
                summary,
                colours[summary.name],
                plan.selected_on,
                rate_label,
                limits,
                optimum=plan.optimum,
                maximize=plan.scale.maximize,
            )
            for summary in searched_lr
            if limits
        ],
    }


def _learning_curves(comparison: Comparison, colours: dict[str, str], above: str) -> list[Markup]:
    """Return a chart for each split that has learning curves of its own."""
    summaries, plan = comparison.contenders, comparison.plan
    runs = [entry.result.evaluations for summary in summaries for entry in summary.trials["race"]]
    if not any(len(run) > 1 for run in runs):
        return []
    curves = []
    for split in ("train", "validation"):
        # On a surface without data all splits are the same function.
        if split == "validation" and plan.judged_on == "train":
            continue
        # A user's function need not report the training loss.
        if not any(math.isfinite(getattr(evaluation, split)) for run in runs for evaluation in run):
            continue
        label = name_of_measure(comparison.record, split)
        optimum = None
        if split == "train":
            label, optimum = f"{label}{above}", plan.optimum
        maximize = plan.scale.maximize and split != "train"
        curves.append(charts.learning_curve_chart(summaries, colours, split, label, optimum=optimum, maximize=maximize))
    return curves
