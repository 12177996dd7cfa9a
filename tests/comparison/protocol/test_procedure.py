"""The protocol: what it asks for, and what it decides, with trainings that are made up."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from thalweg.comparison.planning.budget import ladder
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol import statistics
from thalweg.comparison.protocol.design import Design
from thalweg.comparison.protocol.procedure import Findings, TrialRequest, TrialScore, decide
from thalweg.comparison.results.summary import Estimate
from thalweg.comparison.results.verdict import Terms, Verdict, judge

RANKED = [design for design in ladder(2) if design.ranking]
UNTRAINED = 1e9


def made_up(
    levels: dict[str, float],
    *,
    spread: float = 0.05,
    uneven: float = 3.0,
    asked: list[TrialRequest] | None = None,
    lost: Sequence[str] = (),
    seed: int = 0,
) -> Callable[[Sequence[TrialRequest]], dict[TrialRequest, TrialScore]]:
    """Contenders at these levels; settings, and seeds, differ by about `spread`. Outcomes follow from the ask."""

    def normal(*of: object) -> float:
        return float(np.random.default_rng(derive(0, repr(of))).normal())

    def answer(asks: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        if asked is not None:
            asked.extend(asks)
        found = {}
        for ask in asks:
            setting = levels[ask.contender] + uneven * spread * abs(normal("s", ask.contender, ask.study, ask.trial))
            noise = [spread * normal(split, ask.contender, ask.study, ask.trial, ask.seed) for split in (0, 1)]
            completed = not (ask.contender in lost and normal("lost", ask.seed) > 0)
            found[ask] = TrialScore(setting + noise[0], setting + noise[1], completed)
        return found

    return answer


def decided(design: Design, levels: dict[str, float], answer: Callable, cost: dict | None = None) -> Findings:
    draws = dict.fromkeys(levels, design.draws)
    return decide(design, draws, answer, cost=cost or dict.fromkeys(levels, 0), margin=lambda leader: math.log1p(0.03))


def judged(findings: Findings) -> Verdict:
    values = {}
    for name, scores in findings.race.scores.items():
        found = statistics.interval(scores)
        values[name] = Estimate(*(math.exp(end) for end in (found.mean, found.low, found.high)), len(scores))
    terms = Terms("reaches a loss of", "the 24 settings searched", "costs the least of them", UNTRAINED)
    return judge(findings, values, terms)


def words(findings: Findings) -> str:
    verdict = judged(findings)
    return f"{verdict.text} {verdict.ranking_text}"


@pytest.mark.parametrize("design", ladder(2))
def test_no_seed_serves_two_purposes_and_all_contenders_get_the_same(design: Design) -> None:
    asked: list[TrialRequest] = []
    decided(design, {"a": 0.0, "b": 0.0}, made_up({"a": 0.0, "b": 0.0}, asked=asked))
    assert len(set(asked)) == len(asked)
    stages: dict[tuple, set[str]] = {}
    for ask in asked:
        stages.setdefault(ask.seed, set()).add(ask.stage)
    assert all(len(used - {"start"}) == 1 for used in stages.values())
    counts = {
        name: Counter(ask.stage for ask in asked if ask.contender == name and ask.stage != "value") for name in "ab"
    }
    assert counts["a"] == counts["b"]
    assert sum(counts["a"].values()) <= design.most_trainings


def test_a_clear_winner_is_best_in_both_questions() -> None:
    levels = {"worse": 0.5, "best": 0.0, "bad": 1.0}
    for design in RANKED:
        findings = decided(design, levels, made_up(levels))
        assert (findings.race.settled, findings.race.recommended) == ("best", "best")
        assert findings.ranking is not None
        assert findings.ranking.kept == ["best"]
        assert len(findings.value) == design.value
        worse = "Every other contender, at the best of the 24 settings searched, was shown to be worse."
        assert worse in words(findings)
        assert "Shown to be worse: " in words(findings)


def test_the_cheapest_of_those_shown_within_the_margin_is_recommended() -> None:
    levels = {"dear": 0.0, "cheap": 0.004}
    findings = decided(RANKED[-1], levels, made_up(levels, spread=0.005), cost={"dear": 2, "cheap": 1})
    assert (findings.race.settled, findings.race.recommended) == ("within", "cheap")
    assert "shown to lie within 3 % of the best; cheap costs the least of them" in words(findings)


def test_what_noise_hides_stays_open_and_the_seeds_that_would_settle_it_are_told() -> None:
    levels = {"a": 0.0, "cheap": 0.01}
    findings = decided(RANKED[0], levels, made_up(levels, spread=0.3, uneven=0.0), cost={"a": 2, "cheap": 1})
    assert findings.race.settled == "open"
    assert findings.race.recommended == findings.race.kept[0]  # the cheaper one is not shown to be near
    assert findings.race.seeds_needed > 100
    assert "Not enough evidence to tell it from" in words(findings)
    assert f"About {findings.race.seeds_needed:,} seeds would tell a difference of 3 %." in words(findings)
    assert judged(findings).headline == f"{findings.race.recommended} or {findings.race.kept[1]}: not told apart."


def test_seeds_that_were_raced_already_are_not_asked_for() -> None:
    levels = {"a": 0.0, "b": 0.01, "c": 0.01}
    findings = decided(RANKED[0], levels, made_up(levels, spread=0.3, uneven=0.0))
    run = len(findings.race.scores["a"])
    for needed, said in ((run + 1, f"About {run + 1} seeds would"), (run, f"smaller than what {run} seeds can tell.")):
        text = words(replace(findings, race=replace(findings.race, seeds_needed=needed)))
        assert said in text
        assert text.count("seeds would") + text.count("seeds can tell") == 1
    assert judged(findings).headline.endswith(" or 2 others: not told apart.")


def test_who_ended_worse_than_untrained_is_never_shown_to_be_near() -> None:
    """Where both count as the untrained model they look the same, whatever was measured."""
    levels = {"a": 0.0, "b": 0.0}
    near = made_up(levels, spread=0.005, uneven=0.0)

    def clipped(asks: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        return {ask: found._replace(clipped=True) for ask, found in near(asks).items()}

    assert decided(RANKED[-1], levels, near).race.settled == "within"
    race = decided(RANKED[-1], levels, clipped).race
    assert (race.settled, race.within) == ("open", race.kept[:1])


def test_what_often_diverges_is_never_recommended() -> None:
    levels = {"fragile": 0.0, "steady": 0.001}
    findings = decided(RANKED[0], levels, made_up(levels, spread=0.001, lost=["fragile"]))
    assert findings.race.recommended == "steady"
    alone = decided(replace(RANKED[0], ranking=()), {"fragile": 0.0}, made_up({"fragile": 0.0}, lost=["fragile"]))
    verdict = judged(alone)
    assert (verdict.settled, verdict.recommended, verdict.headline) == ("none", None, "Nothing to recommend.")
    lost = "fragile was lost (diverged or failed) on more than 10 % of the seeds"
    assert verdict.text == f"{lost}: it is not recommended."


def test_a_small_budget_answers_one_question_and_says_so() -> None:
    levels = {"a": 0.0, "b": 1.0}
    findings = decided(ladder(2)[0], levels, made_up(levels))
    assert findings.ranking is None
    assert findings.race.kept == ["a"]
    assert "Optimizers were not ranked" in words(findings)


def test_the_race_ends_as_soon_as_it_is_settled() -> None:
    asked: list[TrialRequest] = []
    levels = {"a": 0.0, "b": 1.0, "c": 1.0}
    decided(RANKED[-1], levels, made_up(levels, asked=asked))
    raced = Counter(ask.contender for ask in asked if ask.stage == "race")
    assert set(raced.values()) == {RANKED[-1].race[0].size}
    studied = {ask.study for ask in asked if ask.contender == "b"}
    assert max(studied) < RANKED[-1].ranking[0].size
