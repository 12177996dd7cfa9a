"""The page of a comparison: one self-contained HTML file, made from the stored results alone."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thalweg.comparison import Comparison
from thalweg.comparison.presentation.overview import compared_value, format_settings
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.summary import GOOD_RATE_MARGIN, STAGES, Summary
from thalweg.comparison.results.terms import name_of_measure
from thalweg.comparison.training.workload_record import SPLITS
from thalweg.report import charts
from thalweg.report.charts import shorten
from thalweg.report.files import write_page
from thalweg.report.templates import render_template, unbroken_options, values_of
from thalweg.tasks.measurement import with_article

# The stored name of this stage would be mistaken for the recommendation.
_STAGE_LABELS = {"recommended": "starting point"}


def write(comparison: Comparison, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the report of a comparison to a file.

    Args:
        comparison: A finished comparison.
        path: The HTML file. Its folder is made if it does not exist.
        overwrite: True replaces a file that is no report of thalweg.

    Returns:
        The path of the file.

    Raises:
        StoreError: If the file cannot be written, is a link, or is no report of thalweg.
    """
    return write_page(Path(path), render(comparison), overwrite=overwrite)


def render(comparison: Comparison) -> str:
    """Return the report of a comparison as HTML, with its style and charts inside.

    A part that cannot be made is a note on the page, and in ``comparison.parts``.

    Args:
        comparison: A finished comparison. The same comparison always gives the same text.
    """
    return render_template("page.html", values_of(_values(comparison)), comparison.parts)


def assign_colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each contender, the same in all charts of a page."""
    return {name: charts.PALETTE[index % len(charts.PALETTE)] for index, name in enumerate(names)}


def _values(comparison: Comparison) -> dict[str, Callable[[], Any]]:
    """Return a function for each value of the template, so that one that raises leaves the others."""
    record, plan, make = comparison.record, comparison.plan, comparison.parts.make
    names = [contender.name for contender in record.contenders]
    colours = assign_colours(names)

    def summaries() -> list[Summary]:
        return comparison.contenders

    def rows() -> list[dict[str, Any]]:
        rows = (
            make(f"the row of {summary.name}", partial(_table_row, comparison, summary), None)
            for summary in summaries()
        )
        return [row for row in rows if row is not None]

    return {
        "title": lambda: shorten(make("the title", lambda: _title(comparison), record.workload.name)),
        "task": lambda: record.workload,
        "metric": lambda: comparison.metric,
        "verdict": lambda: comparison.verdict,
        "code": lambda: comparison.code,
        "leader": lambda: summaries()[0].name,
        "design": lambda: plan.studies,
        "setting_design": lambda: plan.design if isinstance(plan.design, SettingDesign) else None,
        "evidence": lambda: comparison.findings.evidence,
        "schedule": lambda: _common_schedule(comparison),
        "optimum": lambda: plan.optimum,
        "rows": rows,
        "colours": lambda: colours,
        "charts": lambda: _charts(comparison, colours),
        "cautions": lambda: comparison.cautions,
        "half_sample_check": lambda: comparison.half_sample_check,
        "failures": lambda: comparison.failures,
        # The contender whose value comes from seeds that no other stage used.
        "with_fresh_value": lambda: next((summary for summary in summaries() if summary.value_stage == "value"), None),
        "has_user_settings": lambda: any(summary.yours is not None for summary in summaries()),
        "has_starting_points": lambda: any(summary.recommended is not None for summary in summaries()),
        "target": lambda: plan.target,
        "maximize": lambda: plan.maximize,
        "metrics": lambda: list(dict.fromkeys(name for summary in summaries() for name in summary.metrics)),
        "measured": lambda: {split: name_of_measure(record, split) for split in SPLITS},
        "choices": lambda: _choices(comparison),
        "unbroken_options": lambda: unbroken_options,
        "with_article": lambda: with_article,
        "good_rate_margin": lambda: plan.scale.share_in_words(GOOD_RATE_MARGIN),
        "num_evaluations": lambda: next(iter(plan.schedules.values())).num_evaluations,
        "device": lambda: comparison.device,
        "execution_modes": lambda: {name: plan.execution_modes[name].reason for name in names},
        "seed": lambda: plan.seed,
        "seeds": lambda: {_STAGE_LABELS.get(stage, stage): sorted(_seeds(summaries()[0], stage)) for stage in STAGES},
        "environment": lambda: record.environment,
        "version": lambda: record.environment.get("thalweg", ""),
        "created": lambda: record.created,
        "finished": lambda: record.finished,
        "format_number": lambda: charts.format_number,
        "format_digits": lambda: charts.format_digits,
        "format_interval": lambda: charts.format_interval,
        "has_step_times": lambda: any(plan.step_s.get(name) for name in names),
        "num_trainings": lambda: len(_trainings(comparison)),
        "training_s": lambda: sum(entry.result.seconds for entry in _trainings(comparison)),
    }


def _title(comparison: Comparison) -> str:
    return f"{comparison.record.workload.name}: {comparison.verdict.headline}"


def _trainings(comparison: Comparison) -> list[TrialRecord]:
    return [trial for summary in comparison.contenders for trials in summary.trials.values() for trial in trials]


def _ended(comparison: Comparison) -> list[TrialRecord]:
    return [trial for trial in _trainings(comparison) if trial.result.status == "ok"]


def _choices(comparison: Comparison) -> str:
    """Return what decides: the data that choose and evaluate, the scale, and the measurement that counts."""
    record, plan = comparison.record, comparison.plan
    measured = {split: name_of_measure(record, split) for split in SPLITS}
    chosen, evaluated = measured[plan.selected_on], measured[plan.judged_on]
    start = f"The {chosen} chose"
    if record.workload.is_function and plan.target is None:
        reports_test = any(trial.result.test != trial.result.validation for trial in _ended(comparison))
        start += "; that reported as test evaluates" if reports_test else " and evaluates"
    else:
        start += " and evaluates" if chosen == evaluated else f", the {evaluated} evaluates"
    scale = "by the ratios of values" if plan.scale.kind == "log" else "by the differences of values"
    better = "higher" if plan.maximize else "lower"
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
        "value": compared_value(summary, plan),
        "train_loss": summary.train_loss,
        "above_optimum": None if plan.optimum is None else max(0.0, summary.train_loss - plan.optimum),
        "settings": format_settings(summary, summary.searched, ", ", " ") or "none to tune",
        "lost_seeds": summary.lost,
        "lost_settings": sum(entry.result.status not in ("ok", "pruned", "stopped") for entry in searched),
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
            f"{4 * summary.state_numbers} B/parameter" if summary.state_bytes is None else f"{summary.state_bytes:,} B"
        ),
        "line": summary.line,
        "tied": summary.name in comparison.verdict.tied,
        "recommended": summary.name == comparison.verdict.recommended,
        "failures": sorted({entry.result.message for entry in entries if entry.result.message}),
    }


def _charts(comparison: Comparison, colours: dict[str, str]) -> dict[str, Any]:
    """Return the charts; one that cannot be drawn is left out, and noted."""
    summaries, plan, make = comparison.contenders, comparison.plan, comparison.parts.make
    above = " above the optimum" if plan.optimum else ""
    # A time to a target has no optimum, even if the loss has.
    value_optimum = plan.optimum if plan.target is None else None
    value_label = comparison.metric + (above if plan.target is None else "")
    limits = charts.shared_loss_range(summaries, plan.selected_on, optimum=plan.optimum, maximize=plan.maximize)
    searched_lr = [
        summary for summary in summaries if any("lr" in entry.settings for entry in summary.trials["search"])
    ]
    rate_label = f"{name_of_measure(comparison.record, plan.selected_on)}{above}"

    def values() -> Markup | None:
        if not any(math.isfinite(summary.value.mean) for summary in summaries):
            return None
        return charts.value_chart(summaries, colours, value_label, optimum=value_optimum)

    def rate(summary: Summary) -> Markup:
        return charts.learning_rate_chart(
            summary,
            colours[summary.name],
            plan.selected_on,
            rate_label,
            limits,
            optimum=plan.optimum,
            maximize=plan.maximize,
        )

    rates = [
        make(f"the chart of learning rates of {summary.name}", partial(rate, summary), None)
        for summary in searched_lr
        if limits
    ]
    return {
        "rate_label": rate_label,
        "values": make("the chart of values", values, None),
        "curves": make("the charts along the training", lambda: _learning_curves(comparison, colours, above), []),
        "rates": [chart for chart in rates if chart is not None],
    }


def _learning_curves(comparison: Comparison, colours: dict[str, str], above: str) -> list[Markup]:
    """Return a chart for each split that has learning curves of its own."""
    summaries, plan = comparison.contenders, comparison.plan
    runs = [entry.result.evaluations for summary in summaries for entry in summary.raced]
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
        maximize = plan.maximize and split != "train"
        curves.append(charts.learning_curve_chart(summaries, colours, split, label, optimum=optimum, maximize=maximize))
    return curves
