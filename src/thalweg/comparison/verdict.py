"""Verdict: what the findings allow to say, in words. Two questions, two paragraphs."""

from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.comparison import statistics
from thalweg.comparison.protocol import FRAGILE, Findings, Ranking
from thalweg.comparison.scale import MARGIN, Scale


@dataclass(frozen=True)
class Verdict:
    """Which setting to deploy, and which optimizer ranks where.

    `settled` is `best` (all others are shown to be worse), `within` (those left are shown to lie within 3 %), `open`
    (not enough evidence), or `none` (nothing ends reliably). `tied` are those not shown to be worse, the best mean
    first; `within` those shown to lie within 3 % of it, of which the cheapest is `recommended`. `ranked` are the
    optimizers that no look dropped; None where optimizers were not ranked.
    """

    settled: str
    best: str | None
    tied: list[str]
    within: list[str]
    recommended: str | None
    ranked: list[str] | None
    text: str
    ranking_text: str


def judge(findings: Findings, scale: Scale, *, reaches: str, cheaper: str = "") -> Verdict:
    """The verdict of findings. `reaches` stands before a value; `cheaper` is what the recommended one saves."""
    race, ranking = findings.race, findings.ranking
    ranked = None if ranking is None else ranking.kept
    if race.recommended is None:
        share = f"{FRAGILE:.0%}"
        text = (
            f"Every contender that leads was lost (diverged, failed, or missed its target) on more than {share} of the "
            "seeds: none is recommended."
        )
        return Verdict("none", None, race.kept, race.within, None, ranked, text, _ranked(ranking))
    text = _text(findings, scale, reaches=reaches, cheaper=cheaper)
    return Verdict(race.settled, race.kept[0], race.kept, race.within, race.recommended, ranked, text, _ranked(ranking))


def _text(findings: Findings, scale: Scale, *, reaches: str, cheaper: str) -> str:
    race = findings.race
    chosen = race.recommended
    assert chosen is not None
    scores = findings.value or race.scores[chosen]
    found = statistics.interval(scores)
    value = (
        f"{chosen} {reaches} {scale.loss(found.mean):.4g} "
        f"(95 % interval {scale.loss(found.low):.4g} to {scale.loss(found.high):.4g}, {len(scores)} fresh seeds)."
    )
    lost = race.steady[chosen].count(False)
    fragile = f" {chosen} was lost on {lost} of {len(race.steady[chosen])} seeds of the race." if lost else ""
    if len(race.scores) == 1:
        return value + fragile
    if race.settled == "best":
        return f"{value} Every other contender's best setting was shown to be worse.{fragile}"
    share = f"{MARGIN:.0%}".replace("%", " %")
    if race.settled == "within":
        return f"{value} {_listed(race.kept)} are shown to lie within {share} of the best; {chosen} {cheaper}.{fragile}"
    leads = f"{race.kept[0]} leads" if race.kept[0] == chosen else f"{race.kept[0]} leads, {chosen} {cheaper}"
    needed = f" About {race.seeds_needed:,} seeds would tell a difference of {share}." if race.seeds_needed else ""
    others = _listed([name for name in race.kept if name != chosen])
    return f"{value} Not enough evidence to tell it from {others}: {leads}.{needed}{fragile}"


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
