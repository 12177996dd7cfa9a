"""The table of a comparison's contenders, and its sentences: the same on a terminal, in Python and in a notebook."""

import html
import math
from collections.abc import Sequence
from typing import Protocol

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.presentation.tables import Column, Table
from thalweg.comparison.presentation.trial_table import TrialTable
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.summary import Estimate, Summary, estimate_over_seeds
from thalweg.comparison.results.terms import worse
from thalweg.comparison.results.verdict import Verdict


class FinishedComparison(Protocol):
    """The part of a ``Comparison`` that its table and sentences are made of."""

    @property
    def record(self) -> ComparisonRecord: ...
    @property
    def plan(self) -> ComparisonPlan: ...
    @property
    def contenders(self) -> list[Summary]: ...
    @property
    def verdict(self) -> Verdict: ...
    @property
    def metric(self) -> str: ...
    @property
    def half_sample_check(self) -> list[str]: ...
    @property
    def cautions(self) -> list[str]: ...
    @property
    def code(self) -> str: ...
    def trials(self) -> TrialTable: ...


def table_of(comparison: FinishedComparison) -> Table:
    """Return the table of contenders, the recommended one emphasized.

    The value of each contender and its difference from the leader come from the same seeds, those of its row.
    """
    summaries = comparison.contenders
    recommended = comparison.verdict.recommended
    bold_row = next((row for row, summary in enumerate(summaries) if summary.name == recommended), None)
    values = [_value_of_race(summary, comparison) for summary in summaries]
    columns = [
        Column("contender", [summary.name for summary in summaries], "left"),
        Column("value", [format_estimate(value) for value in values]),
        Column("95 % interval", [_interval(value) for value in values]),
        Column("worse by", ["–", *(_worse_by(summary) for summary in summaries[1:])]),
        Column("untuned", [format_estimate(summary.untuned) for summary in summaries]),
        Column("starting point", [format_estimate(summary.recommended) for summary in summaries]),
        Column("training loss", [_number(summary.train_loss) for summary in summaries]),
        Column("lost", [f"{summary.lost}/{len(summary.seeds)}" for summary in summaries]),
        Column("state", [_state(summary) for summary in summaries]),
        Column("settings", [_settings(summary) for summary in summaries], folds=True),
    ]
    if all(summary.recommended is None for summary in summaries):
        columns = [column for column in columns if column.heading != "starting point"]
    return Table(columns, bold_row)


def _value_of_race(summary: Summary, comparison: FinishedComparison) -> Estimate:
    """Return the value over the seeds of the race, from which the difference from the leader comes, too."""
    raced = summary.trials["race"]
    return estimate_over_seeds(raced, comparison.plan) if raced else summary.value


def notes_of(comparison: FinishedComparison) -> list[str]:
    """Return the sentences below the table."""
    notes = []
    summaries = comparison.contenders
    fresh = next((summary for summary in summaries if summary.trials["value"]), None)
    if len(summaries) > 1:
        notes.append("Value and worse by: over the same seeds, those of the race.")
    if fresh is not None and len(summaries) > 1:
        notes[-1] += f" The verdict states the value of {fresh.name} over {fresh.value.count} further seeds."
    if comparison.plan.optimum is not None:
        notes.append(f"Lowest possible training loss: {comparison.plan.optimum:.7g}")
    return notes


def sentences_of(comparison: FinishedComparison) -> list[str]:
    """Return the verdict, the ranking, the half-sample check and the cautions."""
    verdict = comparison.verdict
    return [verdict.text, verdict.ranking_text, *comparison.half_sample_check, *comparison.cautions]


def text_of(comparison: FinishedComparison, width: int = 120) -> str:
    """Return the ``repr`` of a comparison: what it compared, the headline, the table and the code.

    Args:
        comparison: A finished comparison.
        width: The characters in a line.
    """
    parts = [f"{_title(comparison)}\n{comparison.verdict.headline}", table_of(comparison).text(width), comparison.code]
    return "\n\n".join(filter(None, parts))


def html_of(comparison: FinishedComparison) -> str:
    """Return a comparison as HTML for a notebook, every text escaped."""
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in [*notes_of(comparison), *sentences_of(comparison)])
    code = f"<pre>{html.escape(comparison.code)}</pre>" if comparison.code else ""
    title, headline = html.escape(_title(comparison)), html.escape(comparison.verdict.headline)
    return f"<p>{title}<br><b>{headline}</b></p>{table_of(comparison).html()}{paragraphs}{code}"


def _title(comparison: FinishedComparison) -> str:
    names, trainings = len(comparison.contenders), len(comparison.trials())
    contenders = "1 contender" if names == 1 else f"{names} contenders"
    return (
        f"Comparison of {contenders} on {comparison.record.workload.name}: {comparison.metric}, {trainings:,} trainings"
    )


def format_estimate(estimate: Estimate | None) -> str:
    """Format a value for a table; a dash if there is none."""
    if estimate is None or not math.isfinite(estimate.mean):
        return "–"
    return f"{estimate.bound}{estimate.mean:.4g}"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.4g} – {estimate.high:.4g}" if math.isfinite(estimate.high) else "–"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _worse_by(summary: Summary) -> str:
    return worse(summary.worse_by)


def _state(summary: Summary) -> str:
    """Format the memory of an optimizer: of the task's model, or of a parameter if the model is not known."""
    return f"{4 * summary.state_numbers} B/param" if summary.state_bytes is None else f"{summary.state_bytes:,} B"


def _settings(summary: Summary) -> str:
    return format_settings(summary, summary.searched)


def format_settings(summary: Summary, names: Sequence[str]) -> str:
    """Format settings of a contender: ``lr=0.1 momentum=0.9``."""
    values = ((name, summary.settings[name]) for name in names)
    return " ".join(
        f"{name}={value:g}" if isinstance(value, int | float) else f"{name}={value}" for name, value in values
    )
