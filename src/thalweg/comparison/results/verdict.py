"""Verdict: the statements that the findings allow. Two questions, two paragraphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from thalweg.comparison.protocol.procedure import Findings
from thalweg.comparison.protocol.race import MAX_LOST_SHARE, Race
from thalweg.comparison.protocol.studies import Ranking
from thalweg.comparison.results.summary import Estimate
from thalweg.comparison.results.terms import Terms, percent


@dataclass(frozen=True)
class Verdict:
    """The setting to use, and the rank of the optimizers.

    Attributes:
        settled: ``best``: all other contenders are shown to be worse. ``within``: those that remain are shown to lie
            within the margin. ``open``: the evidence does not suffice. ``none``: no contender ends reliably, or none
            ends better than it began.
        best: The contender with the best mean. None if nothing is recommended.
        tied: The contenders that are not shown to be worse, the best mean first.
        within: The contenders that are shown to lie within the margin of the best mean.
        recommended: The cheapest contender of ``within`` that is seldom lost. None if there is none.
        ranked: The optimizers that no interim analysis dropped. None if optimizers were not ranked.
        headline: The answer in a few words, no stronger than ``text``.
        text: The answer to the question which setting to use.
        ranking_text: The answer to the question which optimizer ranks where.
    """

    settled: Literal["best", "within", "open", "none"]
    best: str | None
    tied: list[str]
    within: list[str]
    recommended: str | None
    ranked: list[str] | None
    headline: str
    text: str
    ranking_text: str


def judge(findings: Findings, values: Mapping[str, Estimate], terms: Terms) -> Verdict:
    """Return the verdict of findings.

    Args:
        findings: What the trials decided.
        values: The estimate of each contender's chosen setting.
        terms: The words for the quantities of this comparison.
    """
    race, ranking = findings.race, findings.ranking
    ranked = None if ranking is None else ranking.remaining
    leader = race.recommended or race.remaining[0]
    value = values[leader]
    unimproved = (
        terms.untrained is not None and 2 * value.lost <= value.count and not value.is_improvement(terms.untrained)
    )
    if unimproved or race.recommended is None:
        return Verdict(
            settled="none",
            best=None,
            tied=race.remaining,
            within=race.within,
            recommended=None,
            ranked=ranked,
            headline="Nothing to recommend.",
            text=_unimproved_text(leader, values, terms) if unimproved else terms.no_target or _lost_text(race, terms),
            ranking_text=_ranking_text(ranking),
        )
    return Verdict(
        settled=race.settled,
        best=race.remaining[0],
        tied=race.remaining,
        within=race.within,
        recommended=race.recommended,
        ranked=ranked,
        headline=_headline(race, race.recommended),
        text=_text(race, race.recommended, value, terms),
        ranking_text=_ranking_text(ranking),
    )


def _headline(race: Race, recommended: str) -> str:
    rivals = [name for name in race.remaining if name != recommended]
    if race.settled != "open" or not rivals:
        return f"Use {recommended}."
    return f"{recommended} or {rivals[0] if len(rivals) == 1 else f'{len(rivals)} others'}: not told apart."


def _unimproved_text(leader: str, values: Mapping[str, Estimate], terms: Terms) -> str:
    assert terms.untrained is not None
    value = values[leader]
    seeds = f"{value.unimproved} of {value.count} seeds"
    if any(estimate.is_improvement(terms.untrained) for estimate in values.values()):
        return f"{leader} leads, but ended no better than {terms.untrained_name} on {seeds}. It is not recommended."
    subject = f"{leader} was not shown" if len(values) == 1 else "No contender was shown"
    return (
        f"{subject} to do better than {terms.untrained_name}: {terms.no_improvement}. "
        f"{terms.reached(leader, value)} and ended no better on {seeds}."
    )


def _lost_text(race: Race, terms: Terms) -> str:
    reasons = "diverged or failed" if terms.untrained is not None else "diverged, failed, or missed its target"
    lost = f"lost ({reasons}) on more than {percent(MAX_LOST_SHARE)} of the seeds"
    if len(race.scores) == 1:
        return f"{race.remaining[0]} was {lost}. It is not recommended."
    if len(race.within) == 1:
        return f"{race.within[0]} leads, but was {lost}. No contender is recommended."
    return f"{_listed(race.within)} lead, but each was {lost}. No contender is recommended."


def _text(race: Race, recommended: str, value: Estimate, terms: Terms) -> str:
    sentences = [f"{terms.reached(recommended, value)}."]
    if len(race.scores) > 1:
        sentences += _separation(race, recommended, terms)
    completed = race.completed[recommended]
    if not all(completed):
        lost = completed.count(False)
        sentences.append(f"{recommended} was lost on {lost} of {len(completed)} seeds of the race.")
    return " ".join(sentences)


def _separation(race: Race, recommended: str, terms: Terms) -> list[str]:
    """The separation of the contenders by the race, in sentences."""
    if race.settled == "best":
        return [f"All other contenders, each at the best of {terms.settings}, are shown to be worse."]
    if race.settled == "within":
        near = f"{_listed(race.remaining)} are shown to lie within {terms.margin} of the best"
        return [f"{near}; {recommended} {terms.advantage}."]
    leader = race.remaining[0]
    rivals = _listed([name for name in race.remaining if name != recommended])
    leads = f"{leader} leads" if leader == recommended else f"{leader} leads, {recommended} {terms.advantage}"
    return [f"The evidence does not separate it from {rivals}: {leads}.", *_seeds_needed(race, terms)]


def _seeds_needed(race: Race, terms: Terms) -> list[str]:
    if not race.seeds_needed:
        return []
    num_seeds = len(race.scores[race.remaining[0]])
    if race.seeds_needed <= num_seeds:  # so many were run, and separated nothing
        return [f"The difference is smaller than {num_seeds} seeds can show."]
    return [f"About {race.seeds_needed:,} seeds would show a difference of {terms.margin}."]


def _ranking_text(ranking: Ranking | None) -> str:
    if ranking is None:
        return (
            "Optimizers were not ranked: a ranking takes several independent studies of each, and so a larger budget."
        )
    studies = max(len(scores) for scores in ranking.scores.values())
    start = f"If each optimizer is tuned anew in {studies} independent studies, {_listed(ranking.remaining)}"
    text = f"{start} is best" if len(ranking.remaining) == 1 else f"{start} are not told apart"
    dropped = [name for names in ranking.dropped for name in names]
    if dropped:
        text += f", and {_listed(dropped)} {'is' if len(dropped) == 1 else 'are'} shown to be worse"
    return f"{text}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
