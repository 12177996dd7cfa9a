"""The page of a comparison: one self-contained HTML file, made from the stored results alone."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from thalweg.comparison import Comparison
from thalweg.comparison.presentation.overview import compared_value, format_settings, worse_by_in_words
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.results.environment import NOT_SHOWN
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.summary import GOOD_RATE_MARGIN, STAGES, Summary
from thalweg.comparison.results.terms import HEADINGS, name_of_measure, name_of_untrained
from thalweg.comparison.training.workload_record import SPLITS
from thalweg.errors import printable
from thalweg.report.assets import load_assets
from thalweg.report.certainty import how_sure
from thalweg.report.charts import comparison as charts
from thalweg.report.charts import search
from thalweg.report.charts.placed import draw_charts, script_data
from thalweg.report.charts.theme import assign_colours
from thalweg.report.contender_findings import findings_of
from thalweg.report.files import write_page
from thalweg.report.numbers import (
    format_bytes,
    format_digits,
    format_interval,
    format_number,
    format_seconds,
    shorten,
    sortable,
)
from thalweg.report.raw_numbers import embedded_json, raw_numbers
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


@dataclass(frozen=True)
class LiveState:
    """The state of a comparison that is running, as its page says it.

    Attributes:
        version: The version of the page; another one has other numbers.
        text: What the comparison is doing.
        share: The share of the budget that is used; None if it is unknown.
    """

    version: str
    text: str
    share: float | None


def render(comparison: Comparison, *, live: LiveState | None = None) -> str:
    """Return the report of a comparison as HTML, with its style, charts, scripts and raw numbers inside.

    A part that cannot be made is a note on the page, and in ``comparison.parts``.

    Args:
        comparison: A finished comparison. The same comparison always gives the same text.
        live: What to say of a comparison that is running; its page renews itself.
    """
    assets = load_assets(with_charts=True, is_live=live is not None)
    return render_template("page.html", values_of(_values(comparison, live)), comparison.parts, assets)


def _values(comparison: Comparison, live: LiveState | None) -> dict[str, Callable[[], Any]]:
    """Return a function for each value of the template, so that one that raises leaves the others."""
    record, plan, make = comparison.record, comparison.plan, comparison.parts.make
    names = [contender.name for contender in record.contenders]
    colours = assign_colours(names)

    def summaries() -> list[Summary]:
        return comparison.contenders

    @cache
    def page_data() -> dict[str, Any]:
        return _page_data(comparison, colours)

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
        "charts": lambda: draw_charts(page_data()["drawn"], comparison.parts, with_svg=live is None),
        "page_data": lambda: embedded_json({key: value for key, value in page_data().items() if key != "drawn"}),
        "left_out": lambda: page_data()["raw"]["left_out"] if page_data()["raw"] else "",
        "live": lambda: live,
        "how_sure": lambda: how_sure(comparison),
        "half_search": lambda: make(
            "what half of the search shows", lambda: search.half_search_sentences(comparison), ""
        ),
        "is_exchangeable": lambda: search.is_exchangeable(comparison),
        "pruned": lambda: search.pruned_rows(comparison),
        "split_sentences": lambda: charts.split_sentences(comparison),
        "command": lambda: record.environment.get("command", ""),
        "sortable": lambda: sortable,
        "cautions": lambda: comparison.cautions,
        "half_sample_check": lambda: comparison.half_sample_check,
        "failures": lambda: comparison.failures,
        "has_failed": lambda: any(summary.failed_trainings for summary in summaries()),
        # The contender whose value comes from seeds that no other stage used.
        "with_fresh_value": lambda: next((summary for summary in summaries() if summary.value_stage == "value"), None),
        "has_user_settings": lambda: any(summary.yours is not None for summary in summaries()),
        "has_untuned": lambda: any(summary.untuned is not None for summary in summaries()),
        "has_starting_points": lambda: any(summary.recommended is not None for summary in summaries()),
        "target": lambda: plan.target,
        "maximize": lambda: plan.maximize,
        "headings": lambda: HEADINGS,
        "num_seeds_differ": lambda: len({compared_value(summary, plan).count for summary in summaries()}) > 1,
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
        "environment": lambda: {key: value for key, value in record.environment.items() if key not in NOT_SHOWN},
        "version": lambda: record.environment.get("thalweg", ""),
        "created": lambda: record.created,
        "finished": lambda: record.finished,
        "format_number": lambda: format_number,
        "format_digits": lambda: format_digits,
        "format_interval": lambda: format_interval,
        "format_seconds": lambda: format_seconds,
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
        "key": printable(summary.name),
        "about": summary.about,
        "value": compared_value(summary, plan),
        "train_loss": summary.train_loss,
        "above_optimum": None if plan.optimum is None else max(0.0, summary.train_loss - plan.optimum),
        "settings": format_settings(summary, summary.searched, ", ", " ") or "none to tune",
        "lost_seeds": summary.lost - summary.failed,
        "failed_trainings": summary.failed_trainings,
        "num_trainings": len(entries),
        "lost_settings": sum(entry.result.status not in ("ok", "pruned", "stopped") for entry in searched),
        "num_settings": len(searched),
        "seconds": summary.seconds,
        "worse_by": worse_by_in_words(summary, plan),
        "worse_by_number": summary.worse_by,
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
            f"{4 * summary.state_numbers} B/parameter"
            if summary.state_bytes is None
            else format_bytes(summary.state_bytes)
        ),
        "state_size": 4 * summary.state_numbers if summary.state_bytes is None else summary.state_bytes,
        "findings": findings_of(summary, name_of_untrained(comparison.record)),
        "line": summary.line,
        "tied": summary.name in comparison.verdict.tied,
        "recommended": summary.name == comparison.verdict.recommended,
        "failures": sorted({entry.result.message for entry in entries if entry.result.message}),
    }


def _page_data(comparison: Comparison, colours: dict[str, int]) -> dict[str, Any]:
    """Return the data of the script, each part made by itself; ``drawn`` holds the charts for the template."""
    make = comparison.parts.make
    order = make("the order of the contenders", lambda: [summary.name for summary in comparison.contenders], [])
    drawn: dict[str, Any] = {
        "values": make("the chart of values", lambda: charts.value_chart(comparison, colours), None),
        "curves": make("the charts along the training", lambda: charts.curve_charts(comparison, colours), []),
        "rates": make("the chart of learning rates", lambda: charts.learning_rate_chart(comparison, colours), None),
        "budget": make("the chart of the budget", lambda: search.budget_chart(comparison, colours), None),
        "splits": make("the chart of validation and test", lambda: charts.split_chart(comparison, colours), None),
    }
    return {
        "drawn": drawn,
        **script_data(order, colours, drawn),
        "search": make("the chart of the search", lambda: search.search_json(comparison, colours), []),
        "raw": make("the raw numbers", lambda: raw_numbers(comparison.trainings, comparison.to_json()), None),
    }
