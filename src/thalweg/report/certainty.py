"""Certainty: the strength of a verdict, in one sentence that a heading can hold."""

from thalweg.comparison import Comparison
from thalweg.comparison.protocol.race import Race


def how_sure(comparison: Comparison) -> str:
    """Return how sure the verdict of a comparison is.

    Args:
        comparison: The comparison, finished or not.
    """
    verdict, summaries = comparison.verdict, comparison.contenders
    race = comparison.findings.race
    seeds = max(map(len, race.scores.values()), default=0)
    over_seeds = f"over {seeds} seeds" if seeds > 1 else "over one seed"
    raced, tied = sum(map(bool, race.scores.values())), len(verdict.tied)
    start = "" if comparison.record.finished else "So far: "
    softening = comparison.softening
    if verdict.settled == "unended":
        return "Nothing is settled: no training has ended."
    if verdict.settled == "none":
        return f"{start}Nothing is settled: no contender ends reliably and better than it began."
    if softening is not None:
        return f"{start}Not settled: {softening.reason}."
    if len(summaries) == 1:
        return f"{start}Tuned alone: there is no rival to compare with."
    if verdict.settled == "open" and comparison.equal_seeds is not None:
        return f"{start}Not settled: all seeds give the same values, so they are the evidence of one seed."
    if verdict.settled == "best":
        which = _rivals_shown(race, raced - tied, raced - 1)
        return f"{start}Sure: {which} shown to be worse, {over_seeds}."
    if verdict.settled == "within":
        return f"{start}Sure to within {comparison.margin}: {tied} contenders are shown to be this close, {over_seeds}."
    if verdict.settled == "unraced" and race.settled == "best":
        return f"{start}Not settled: too few settings of the rivals were searched."
    if verdict.settled == "unraced":
        return f"{start}Not settled: the leader of the search was not raced against the others."
    return f"{start}Not settled: {tied} contenders are not told apart, {over_seeds}."


def _rivals_shown(race: Race, shown: int, rivals: int) -> str:
    """Return the subject and its verb; contenders that did not race have no scores."""
    if rivals == 1:
        return "the one rival that raced is" if race.unraced else "its rival is"
    return f"{'all' if shown == rivals else f'{shown} of'} {rivals} rivals that raced are"
