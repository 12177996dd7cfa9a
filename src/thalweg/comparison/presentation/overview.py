"""The table of a comparison's contenders, and its sentences: the same on a terminal, in Python and in a notebook."""

import html
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from thalweg.comparison.planning.plan import ComparisonPlan
from thalweg.comparison.presentation.tables import Column, Table
from thalweg.comparison.presentation.trial_table import TrialTable
from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.summary import Summary, estimate_over_seeds
from thalweg.comparison.results.terms import HEADINGS, difference, name_of_measure, worse
from thalweg.comparison.results.verdict import Verdict
from thalweg.errors import printable

# The seeds on which contenders are compared, by stage, the latest first.
SEEDS = {"race": "the seeds of the race", "final": "the seeds of the finals", "search": "the seed of the search"}


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


def names_from_the_leader(findings: Findings) -> list[str]:
    """Return the names of all contenders: those in the race, the dropped, those without a race, and the untried."""
    race, evidence = findings.race, findings.evidence
    dropped = [name for names in reversed(race.dropped) for name in reversed(names)]
    return [*race.remaining, *dropped, *race.unraced, *(evidence.untried if evidence is not None else [])]


def in_order_of_value(summaries: Iterable[Summary]) -> list[Summary]:
    """Return summaries in order of value: the leader, which comes first, then by seeds, and by the difference from it.

    Contenders with as many seeds are compared over the same seeds, so this is the order of their values.
    """
    leader, *rivals = summaries

    def place(summary: Summary) -> tuple[int, float]:
        return -len(summary.beside_leader), summary.worse_by if math.isfinite(summary.worse_by) else math.inf

    return [leader, *sorted(rivals, key=place)]


def table_of(comparison: FinishedComparison) -> Table:
    """Return the table of contenders, the recommended one emphasized.

    The value of each contender and its difference from the leader come from the same seeds, those of its row.
    """
    summaries = comparison.contenders
    recommended = comparison.verdict.recommended
    bold_row = next((row for row, summary in enumerate(summaries) if summary.name == recommended), None)
    plan = comparison.plan
    values = [compared_value(summary, plan) for summary in summaries]
    metrics = dict.fromkeys(name for summary in summaries for name in summary.metrics)
    columns = [
        Column(HEADINGS.contender, [summary.name for summary in summaries], "left"),
        Column("value", [format_estimate(value) for value in values]),
        Column("95 % interval", [_interval(value) for value in values]),
        Column(HEADINGS.worse_by, ["–", *(worse_by_in_words(summary, plan) for summary in summaries[1:])]),
        Column(HEADINGS.seeds, [str(value.count) for value in values]),
        Column(HEADINGS.untuned, [format_estimate(summary.untuned) for summary in summaries]),
        Column(HEADINGS.starting_point, [format_estimate(summary.recommended) for summary in summaries]),
        Column(HEADINGS.your_setting, [format_estimate(summary.yours) for summary in summaries]),
        Column(HEADINGS.training_loss, [_number(summary.train_loss) for summary in summaries]),
        *(Column(name, [format_estimate(summary.metrics.get(name)) for summary in summaries]) for name in metrics),
        Column(HEADINGS.lost, [f"{summary.lost - summary.failed}/{len(summary.seeds)}" for summary in summaries]),
        Column(HEADINGS.failed, [f"{summary.failed_trainings}/{len(summary.trainings)}" for summary in summaries]),
        Column(HEADINGS.state, [_state(summary) for summary in summaries]),
        Column(HEADINGS.settings, [format_settings(summary, summary.searched) for summary in summaries], folds=True),
    ]
    hidden = {HEADINGS.starting_point} if all(summary.recommended is None for summary in summaries) else set()
    hidden |= {HEADINGS.your_setting} if all(summary.yours is None for summary in summaries) else set()
    hidden |= {HEADINGS.untuned} if all(summary.untuned is None for summary in summaries) else set()
    hidden |= {HEADINGS.failed} if all(summary.failed_trainings == 0 for summary in summaries) else set()
    hidden |= {HEADINGS.seeds} if len({value.count for value in values}) == 1 else set()
    return Table([column for column in columns if column.heading not in hidden], bold_row)


def compared_value(summary: Summary, plan: ComparisonPlan) -> Estimate:
    """Return the value over the seeds from which the difference from the leader comes, too; of one alone, its value."""
    if len(plan.schedules) < 2:
        return summary.value
    trials = [trial for trial, _ in summary.beside_leader] or summary.raced
    return estimate_over_seeds(trials, plan) if trials else summary.value


def notes_of(comparison: FinishedComparison) -> list[str]:
    """Return the sentences below the table."""
    notes = []
    summaries = comparison.contenders
    if len(summaries) > 1 and (seeds := _seeds_of(summaries)):
        same = f"Value and worse by are over the same seeds: {seeds}."
        notes.append(" ".join([same, *_earlier(comparison)]))
        fresh = next((summary for summary in summaries if summary.value_stage == "value"), None)
        if fresh is not None:
            notes[0] += f" The verdict states the value of {fresh.name} over {fresh.value.count} further seeds."
    notes += _better_than_the_leader(comparison)
    if any(summary.failed_trainings for summary in summaries):
        notes.append("Failed: trainings that raised an error, of all trainings. The errors stand below the verdict.")
    if comparison.plan.optimum is not None:
        notes.append(f"Lowest possible training loss: {comparison.plan.optimum:.7g}")
    return notes


def _better_than_the_leader(comparison: FinishedComparison) -> Iterator[str]:
    """Say why contenders with better values than the leader's stand below it: they did not race."""
    leader, *rivals = comparison.contenders
    plan = comparison.plan
    better = [summary.name for summary in rivals if worse_by_in_words(summary, plan).endswith(" better")]
    if better:
        names, verb = " and ".join(better), "has a better value" if len(better) == 1 else "have better values"
        chose = name_of_measure(comparison.record, plan.selected_on)
        yield f"{names} {verb} than {leader.name} on these seeds, without a race. The {chose} puts {leader.name} first."


def _seeds_of(summaries: Sequence[Summary]) -> str:
    """Return the words for the seeds on which contenders are compared with the leader; empty if there are none."""
    stages = {trial.stage for summary in summaries for trial, _ in summary.beside_leader}
    return " or ".join(text for stage, text in SEEDS.items() if stage in stages)


def _earlier(comparison: FinishedComparison) -> Iterator[str]:
    """Yield the values of the leader that the row of the table does not show: over the seeds of earlier stages."""
    leader, *rivals = comparison.contenders
    own = _stage_of(leader)
    for stage, words in SEEDS.items():
        earlier = [summary for summary in rivals if stage not in (own, "") and _stage_of(summary) == stage]
        if earlier:
            value = estimate_over_seeds([trial for _, trial in earlier[0].beside_leader], comparison.plan)
            if not math.isfinite(value.mean):  # lost on all of them
                continue
            names = ", ".join(summary.name for summary in earlier)
            yield f"On {words}, beside {names}, {leader.name} reaches {format_estimate(value)}."


def _stage_of(summary: Summary) -> str:
    """Return the stage in which a contender was last compared with the leader; empty if there is none."""
    return next((trial.stage for trial, _ in summary.beside_leader), "")


def sentences_of(comparison: FinishedComparison) -> list[str]:
    """Return the verdict, the ranking, the half-sample check and the cautions."""
    verdict = comparison.verdict
    return [verdict.text, verdict.ranking_text, *comparison.half_sample_check, *comparison.cautions]


def text_of(comparison: FinishedComparison, width: int = 120) -> str:
    """Return the ``repr`` of a comparison: what it compared, the headline, the table and the code.

    If a contender below the leader has a better value, it says why.

    Args:
        comparison: A finished comparison.
        width: The characters in a line.
    """
    reasons = [textwrap.fill(reason, width) for reason in _better_than_the_leader(comparison)]
    heading = f"{_title(comparison)}\n{comparison.verdict.headline}"
    parts = [heading, table_of(comparison).text(width), *reasons, comparison.code]
    return printable("\n\n".join(filter(None, parts)), keep="\n")


def html_of(comparison: FinishedComparison) -> str:
    """Return a comparison as HTML for a notebook, every text escaped."""
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in [*notes_of(comparison), *sentences_of(comparison)])
    code = f"<pre>{html.escape(comparison.code)}</pre>" if comparison.code else ""
    title, headline = html.escape(_title(comparison)), html.escape(comparison.verdict.headline)
    page = f"<p>{title}<br><b>{headline}</b></p>{table_of(comparison).html()}{paragraphs}{code}"
    return printable(page, keep="\n")


def _title(comparison: FinishedComparison) -> str:
    names, trainings = len(comparison.contenders), len(comparison.trials())
    contenders = "1 contender" if names == 1 else f"{names} contenders"
    return (
        f"Comparison of {contenders} on {comparison.record.workload.name}: {comparison.metric}, {trainings:,} trainings"
    )


def code_of(comparison: FinishedComparison) -> str:
    """Return the lines of code for the recommended contender; empty if none is recommended."""
    recommended = comparison.verdict.recommended
    summary = next((summary for summary in comparison.contenders if summary.name == recommended), None)
    if summary is None:
        return ""
    scheduler = comparison.plan.schedules[summary.name].line_of_code()
    if not scheduler or "\nscheduler" in summary.line or comparison.record.workload.is_function:
        return summary.line  # which has the schedulers of a training function, or of a task whose numbers are tuned
    passes = comparison.record.workload.passes
    return f"{summary.line}\n{scheduler}  # {passes} passes; scheduler.step() after each batch"


def format_estimate(estimate: Estimate | None) -> str:
    """Format a value for a table; a dash if there is none."""
    if estimate is None or not math.isfinite(estimate.mean):
        return "–"
    return f"{estimate.bound}{estimate.mean:.4g}"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.4g} – {estimate.high:.4g}" if estimate.has_interval else "–"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def worse_by_in_words(summary: Summary, plan: ComparisonPlan) -> str:
    """Return by how much a contender is worse than the leader, or better; a dash if nothing of it was measured."""
    is_share = plan.scale.worse_by_is_share and math.isfinite(compared_value(summary, plan).mean)
    return difference(worse(summary.worse_by) if is_share else summary.worse_by_text, summary.worse_by)


def _state(summary: Summary) -> str:
    """Format the memory of an optimizer: of the task's model, or of a parameter if the model is not known."""
    return f"{4 * summary.state_numbers} B/param" if summary.state_bytes is None else f"{summary.state_bytes:,} B"


def format_settings(summary: Summary, names: Sequence[str], separator: str = " ", equals: str = "=") -> str:
    """Format settings of a contender: ``lr=0.1 momentum=0.9 activation=relu``."""
    values = ((name, summary.settings[name]) for name in names)
    return separator.join(
        f"{name}{equals}{value:g}" if type(value) in (int, float) else f"{name}{equals}{value}"
        for name, value in values
    )
