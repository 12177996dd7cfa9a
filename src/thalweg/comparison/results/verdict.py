"""Verdict: what the findings allow to say, in words. Two questions, two paragraphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thalweg.comparison.protocol.procedure import FRAGILE, Findings, Race, Ranking
from thalweg.comparison.protocol.score_scale import MARGIN
from thalweg.comparison.results.summary import Estimate


@dataclass(frozen=True)
class Terms:
    """How the sentences name things on this task.

    `reaches` stands before a value, `settings` are those searched for each contender, `cheaper` is what the recommended
    one saves. `untrained` is the untrained model's loss, None where a time to a target counts; `reference` names it,
    and `learning` says what it means that nobody did better. `missed` is said where no training of the search met a
    target.
    """

    reaches: str
    settings: str = "the settings searched"
    cheaper: str = ""
    untrained: float | None = None
    reference: str = "the untrained model"
    learning: str = "nothing was learnt"
    missed: str = ""


@dataclass(frozen=True)
class Verdict:
    """Which setting to deploy, and which optimizer ranks where.

    `settled` is `best` (all others are shown to be worse), `within` (those left are shown to lie within 3 %), `open`
    (not enough evidence), or `none` (nothing ends reliably, or better than it began). `tied` are those not shown to be
    worse, the best mean first; `within` those shown to lie within 3 % of it, of which the cheapest is `recommended`.
    `ranked` are the optimizers that no look dropped; None where optimizers were not ranked. `headline` is the answer in
    a few words, no stronger than `text`.
    """

    settled: str
    best: str | None
    tied: list[str]
    within: list[str]
    recommended: str | None
    ranked: list[str] | None
    headline: str
    text: str
    ranking_text: str


def judge(findings: Findings, values: Mapping[str, Estimate], terms: Terms) -> Verdict:
    """The verdict of findings, given what each contender's setting comes to."""
    race, ranking = findings.race, findings.ranking
    ranked = None if ranking is None else ranking.kept
    leader = race.recommended or race.kept[0]
    value = values[leader]
    unlearnt = terms.untrained is not None and 2 * value.lost <= value.of and not value.learnt(terms.untrained)
    if unlearnt or race.recommended is None:
        text = _unlearnt(leader, values, terms) if unlearnt else terms.missed or _lost(race, terms)
        return Verdict(
            "none", None, race.kept, race.within, None, ranked, "Nothing to recommend.", text, _ranked(ranking)
        )
    return Verdict(
        race.settled,
        race.kept[0],
        race.kept,
        race.within,
        race.recommended,
        ranked,
        _headline(race, race.recommended),
        _text(race, race.recommended, value, terms),
        _ranked(ranking),
    )


def _headline(race: Race, chosen: str) -> str:
    others = [name for name in race.kept if name != chosen]
    if race.settled != "open" or not others:
        return f"Use {chosen}."
    return f"{chosen} or {others[0] if len(others) == 1 else f'{len(others)} others'}: not told apart."


def _unlearnt(leader: str, values: Mapping[str, Estimate], terms: Terms) -> str:
    assert terms.untrained is not None
    value = values[leader]
    ended = f"{value.unlearnt} of {value.of} seeds"
    if any(one.learnt(terms.untrained) for one in values.values()):
        return f"{leader} leads, but ended no better than {terms.reference} on {ended}: it is not recommended."
    none = f"{leader} was not shown" if len(values) == 1 else "No contender was shown"
    return (
        f"{none} to do better than {terms.reference}: {terms.learning}. "
        f"{leader} {terms.reaches} {_with_interval(value)}, and ended no better on {ended}."
    )


def _lost(race: Race, terms: Terms) -> str:
    how = "diverged or failed" if terms.untrained is not None else "diverged, failed, or missed its target"
    often = f"lost ({how}) on more than {_share(FRAGILE)} of the seeds"
    if len(race.scores) == 1:
        return f"{race.kept[0]} was {often}: it is not recommended."
    if len(race.within) == 1:
        return f"{race.within[0]} leads, but was {often}: none is recommended."
    return f"{_listed(race.within)} lead, but each was {often}: none is recommended."


def _text(race: Race, chosen: str, value: Estimate, terms: Terms) -> str:
    reached = f"{chosen} {terms.reaches} {_with_interval(value)}."
    lost = race.completed[chosen].count(False)
    fragile = f" {chosen} was lost on {lost} of {len(race.completed[chosen])} seeds of the race." if lost else ""
    if len(race.scores) == 1:
        return reached + fragile
    if race.settled == "best":
        return f"{reached} Every other contender, at the best of {terms.settings}, was shown to be worse.{fragile}"
    share = _share(MARGIN)
    if race.settled == "within":
        near = f"{_listed(race.kept)} are shown to lie within {share} of the best"
        return f"{reached} {near}; {chosen} {terms.cheaper}.{fragile}"
    leads = f"{race.kept[0]} leads" if race.kept[0] == chosen else f"{race.kept[0]} leads, {chosen} {terms.cheaper}"
    others = _listed([name for name in race.kept if name != chosen])
    return f"{reached} Not enough evidence to tell it from {others}: {leads}.{_needed(race, share)}{fragile}"


def _needed(race: Race, share: str) -> str:
    if not race.seeds_needed:
        return ""
    run = len(race.scores[race.kept[0]])
    if race.seeds_needed <= run:  # they were there, and told nothing apart
        return f" The difference is smaller than what {run} seeds can tell."
    return f" About {race.seeds_needed:,} seeds would tell a difference of {share}."


def _with_interval(value: Estimate) -> str:
    if value.lost:
        return f"{value.bound}{value.mean:.4g} ({value.of} fresh seeds, {value.lost} of them lost)"
    return f"{value.mean:.4g} (95 % interval {value.low:.4g} to {value.high:.4g}, {value.of} fresh seeds)"


def _ranked(ranking: Ranking | None) -> str:
    if ranking is None:
        return "Optimizers were not ranked: that takes several independent studies of each, and so a larger budget."
    studies = max(len(scores) for scores in ranking.scores.values())
    dropped = [name for names in ranking.dropped for name in names]
    worse = f" Shown to be worse: {_listed(dropped)}." if dropped else ""
    first = ranking.kept[0]
    if len(ranking.kept) == 1:
        return f"As an optimizer, tuned anew in {studies} independent studies, {first} is best.{worse}"
    return (
        f"As optimizers, tuned anew in {studies} independent studies, {_listed(ranking.kept)} are not told apart."
        f"{worse}"
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _share(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")
