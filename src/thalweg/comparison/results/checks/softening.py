"""Softening: facts outside of the race that forbid to call its winner settled, in the headline and in its certainty."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from thalweg.comparison.results.checks.preferences import preferred_on_validation
from thalweg.comparison.results.checks.unraced_rivals import better_unraced
from thalweg.comparison.results.records import ComparisonRecord
from thalweg.comparison.results.summary import Summary
from thalweg.comparison.results.verdict import Verdict


class Softening(NamedTuple):
    """The words of a verdict that is not settled, although its race is.

    Attributes:
        headline: The headline.
        reason: The reason, as the end of a sentence.
    """

    headline: str
    reason: str


def softening_of(verdict: Verdict, record: ComparisonRecord, summaries: Sequence[Summary]) -> Softening | None:
    """Return the words for a verdict that other facts do not allow to call settled; None if they do.

    Args:
        verdict: The verdict from the race.
        record: The comparison.
        summaries: The results of its contenders.
    """
    winner = next((summary for summary in summaries if summary.name == verdict.recommended), None)
    if winner is None:
        return None
    preferred = [preference.name for preference in preferred_on_validation(record, summaries, winner)]
    if preferred:
        return Softening(
            f"{winner.name} on the test split, {_first_two(preferred)} on the validation split: not settled.",
            "validation and test prefer different contenders",
        )
    rivals = better_unraced(record, summaries, winner)
    if rivals and verdict.settled in ("best", "within"):
        names, verb = _first_two([rival.name for rival in rivals]), "was" if len(rivals) == 1 else "were"
        return Softening(
            f"{winner.name} won the race, {names} {verb} better without one: not settled.",
            f"{names} did not race and {verb} much better {on_seeds(rivals[0].seeds)}",
        )
    return None


def softened(verdict: Verdict, record: ComparisonRecord, summaries: Sequence[Summary]) -> Verdict:
    """Return a verdict whose headline says so if other facts do not allow to call it settled.

    The headline of an unfinished comparison promises nothing, and stays.

    Args:
        verdict: The verdict from the race.
        record: The comparison.
        summaries: The results of its contenders.
    """
    softening = softening_of(verdict, record, summaries)
    return verdict if softening is None or record.finished is None else replace(verdict, headline=softening.headline)


def on_seeds(count: int) -> str:
    """Return the seeds that two contenders share, in words."""
    return "on the one seed that both have" if count == 1 else f"on the {count} seeds that both have"


def _first_two(names: Sequence[str]) -> str:
    return " and ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
