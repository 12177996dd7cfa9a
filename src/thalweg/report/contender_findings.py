"""Findings of each contender: what its stored trainings show to be wrong, or remarkable, in sentences."""

from collections import Counter
from collections.abc import Iterator, Sequence

from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.summary import Summary
from thalweg.report.numbers import format_number

_MAX_REASONS = 3


def findings_of(summary: Summary, untrained_name: str = "the untrained model") -> list[str]:
    """Return the findings of a contender; an empty list if nothing is wrong.

    Args:
        summary: The results of the contender.
        untrained_name: The words for the untrained model, which a training function does not show.
    """
    return [
        *_lost(summary),
        *_unimproved(summary, untrained_name),
        *_divergence(summary),
        *_reasons(summary),
        *_edges(summary),
    ]


def _lost(summary: Summary) -> Iterator[str]:
    counts = {"diverged": summary.diverged, "failed": summary.failed, "missed the target": summary.missed}
    for words, count in counts.items():
        if count:
            yield f"{count} of {len(summary.seeds)} seeds {words} at the chosen setting."


def _unimproved(summary: Summary, untrained_name: str) -> Iterator[str]:
    value = summary.value
    if value.unimproved > value.lost:
        yield f"{value.unimproved - value.lost} of {value.count} seeds ended no better than {untrained_name}."


def _divergence(summary: Summary) -> Iterator[str]:
    """Say from which learning rate the searched settings diverged, if no setting above it ended."""
    searched = [trial for trial in summary.trials["search"] if "lr" in trial.settings]
    diverged = [trial.settings["lr"] for trial in searched if trial.result.status == "diverged"]
    if not diverged:
        return
    ended = [trial.settings["lr"] for trial in searched if trial.result.status == "ok"]
    above = [rate for rate in diverged if rate > max(ended, default=0.0)]
    count = f"{len(diverged)} of {len(searched)} searched settings diverged"
    if above:
        yield f"{count}, all of those with a learning rate of {format_number(min(above))} or more."
    else:
        yield f"{count}, at learning rates from {format_number(min(diverged))} to {format_number(max(diverged))}."


def _reasons(summary: Summary) -> Iterator[str]:
    """Say why trainings diverged, failed or learned nothing, where their first steps or their errors show it."""
    trials: Sequence[TrialRecord] = [trial for members in summary.trials.values() for trial in members]
    reasons = Counter(trial.result.message for trial in trials if trial.result.message)
    for reason, count in reasons.most_common(_MAX_REASONS):
        yield f"{'1 training' if count == 1 else f'{count} trainings'}: {reason.rstrip('.')}."


def _edges(summary: Summary) -> Iterator[str]:
    for edge in summary.at_edge:
        yield (
            f"The best {edge.setting}, {format_number(edge.value)}, lies at the {edge.end} end of its search range "
            f"({format_number(edge.limit)}). A better value may lie beyond."
        )
