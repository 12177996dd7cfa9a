"""The procedure: the trainings it requests and its decisions, with made-up scores."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from thalweg import statistics
from thalweg.comparison.planning.budget import RANKED
from thalweg.comparison.planning.seeds import derive
from thalweg.comparison.protocol.design import Design, InterimAnalysis
from thalweg.comparison.protocol.procedure import Findings, decide
from thalweg.comparison.protocol.trial import TrialRequest, TrialScore
from thalweg.comparison.results.estimate import Estimate
from thalweg.comparison.results.terms import Terms
from thalweg.comparison.results.verdict import Verdict, judge

ONE_STUDY = Design(4, 1, 0, 0, (), 0, 0, (InterimAnalysis(5, 0.05),), 5)  # as old stores have it
UNTRAINED = 1e9


def made_up(
    levels: dict[str, float],
    *,
    spread: float = 0.05,
    uneven: float = 3.0,
    log: list[TrialRequest] | None = None,
    lost: Sequence[str] = (),
    seed: int = 0,
) -> Callable[[Sequence[TrialRequest]], dict[TrialRequest, TrialScore]]:
    """Return a function that scores requests: contenders at these levels; settings and seeds differ by `spread`."""

    def normal(*of: object) -> float:
        return float(np.random.default_rng(derive(0, repr(of))).normal())

    def run_trials(requests: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        if log is not None:
            log.extend(requests)
        scores = {}
        for request in requests:
            name, study, trial = request.contender, request.study, request.trial
            setting = levels[name] + uneven * spread * abs(normal("s", name, study, trial))
            noise = [spread * normal(split, name, study, trial, request.seed) for split in (0, 1)]
            completed = not (name in lost and normal("lost", request.seed) > 0)
            scores[request] = TrialScore(setting + noise[0], setting + noise[1], completed)
        return scores

    return run_trials


def decided(design: Design, levels: dict[str, float], run_trials: Callable, cost: dict | None = None) -> Findings:
    draws = dict.fromkeys(levels, design.draws)
    cost = cost or dict.fromkeys(levels, 0)
    return decide(design, draws, run_trials, cost=cost, margin=lambda leader: math.log1p(0.03))


def judged(findings: Findings) -> Verdict:
    values = {}
    for name, scores in findings.race.scores.items():
        interval = statistics.interval(scores)
        mean, low, high = (math.exp(end) for end in (interval.mean, interval.low, interval.high))
        values[name] = Estimate(mean, low, high, len(scores))
    terms = Terms(
        "reaches a loss of",
        searched=dict.fromkeys(findings.race.scores, 24),
        advantage="costs the least of them",
        untrained=UNTRAINED,
    )
    return judge(findings, values, terms)


def words(findings: Findings) -> str:
    verdict = judged(findings)
    return f"{verdict.text} {verdict.ranking_text}"


@pytest.mark.parametrize("design", [ONE_STUDY, *RANKED])
def test_no_seed_serves_two_purposes_and_all_contenders_get_the_same(design: Design) -> None:
    log: list[TrialRequest] = []
    decided(design, {"a": 0.0, "b": 0.0}, made_up({"a": 0.0, "b": 0.0}, log=log))
    assert len(set(log)) == len(log)
    stages: dict[tuple, set[str]] = {}
    for request in log:
        stages.setdefault(request.seed, set()).add(request.stage)
    assert all(len(used - {"start"}) == 1 for used in stages.values())
    counts = {
        name: Counter(request.stage for request in log if request.contender == name and request.stage != "value")
        for name in "ab"
    }
    assert counts["a"] == counts["b"]
    assert sum(counts["a"].values()) <= design.most_trainings


def test_a_clear_winner_is_best_in_both_questions() -> None:
    levels = {"worse": 0.5, "best": 0.0, "bad": 1.0}
    for design in RANKED:
        findings = decided(design, levels, made_up(levels))
        assert (findings.race.settled, findings.race.recommended) == ("best", "best")
        assert findings.ranking is not None
        assert findings.ranking.remaining == ["best"]
        assert len(findings.value_scores) == design.value
        worse = "All other contenders, each at the best of the 24 settings searched, are shown to be worse."
        assert worse in words(findings)
        assert "best is best, and bad and worse are shown to be worse." in words(findings)


def test_the_cheapest_of_those_shown_within_the_margin_is_recommended() -> None:
    levels = {"dear": 0.0, "cheap": 0.004}
    findings = decided(RANKED[-1], levels, made_up(levels, spread=0.005), cost={"dear": 2, "cheap": 1})
    assert (findings.race.settled, findings.race.recommended) == ("within", "cheap")
    assert "shown to lie within 3 % of the best; cheap costs the least of them" in words(findings)


def test_what_noise_hides_stays_open_and_the_seeds_that_would_settle_it_are_told() -> None:
    levels = {"a": 0.0, "cheap": 0.01}
    findings = decided(RANKED[0], levels, made_up(levels, spread=0.3, uneven=0.0), cost={"a": 2, "cheap": 1})
    assert findings.race.settled == "open"
    assert findings.race.recommended == findings.race.remaining[0]  # "cheap" is not shown to be near
    assert findings.race.seeds_needed > 100
    assert f"The evidence does not separate it from {findings.race.remaining[1]}: " in words(findings)
    assert f"About {findings.race.seeds_needed:,} seeds would show a difference of 3 %." in words(findings)
    assert judged(findings).headline == f"{findings.race.recommended} or {findings.race.remaining[1]}: not told apart."


def test_seeds_that_were_raced_already_are_not_requested() -> None:
    levels = {"a": 0.0, "b": 0.01, "c": 0.01}
    findings = decided(RANKED[0], levels, made_up(levels, spread=0.3, uneven=0.0))
    run = len(findings.race.scores["a"])
    for needed, sentence in ((run + 1, f"About {run + 1} seeds would"), (run, f"smaller than {run} seeds can show.")):
        text = words(replace(findings, race=replace(findings.race, seeds_needed=needed)))
        assert sentence in text
        assert text.count("seeds would") + text.count("seeds can show") == 1
    assert judged(findings).headline.endswith(" or 2 others: not told apart.")


def test_a_contender_that_ended_worse_than_untrained_is_never_shown_to_be_near() -> None:
    """If both count as the untrained model, they look the same, whatever was measured."""
    levels = {"a": 0.0, "b": 0.0}
    near = made_up(levels, spread=0.005, uneven=0.0)

    def clipped(requests: Sequence[TrialRequest]) -> dict[TrialRequest, TrialScore]:
        return {request: score._replace(clipped=True) for request, score in near(requests).items()}

    assert decided(RANKED[-1], levels, near).race.settled == "within"
    race = decided(RANKED[-1], levels, clipped).race
    assert (race.settled, race.within) == ("open", race.remaining[:1])


def test_a_contender_that_often_diverges_is_never_recommended() -> None:
    levels = {"fragile": 0.0, "steady": 0.001}
    findings = decided(RANKED[0], levels, made_up(levels, spread=0.001, lost=["fragile"]))
    assert findings.race.recommended == "steady"
    alone = decided(replace(RANKED[0], ranking=()), {"fragile": 0.0}, made_up({"fragile": 0.0}, lost=["fragile"]))
    verdict = judged(alone)
    assert (verdict.settled, verdict.recommended, verdict.headline) == ("none", None, "Nothing to recommend.")
    lost = "fragile was lost (diverged or failed) on more than 10 % of the seeds"
    assert verdict.text == f"{lost}. It is not recommended."


def test_a_small_budget_answers_one_question_and_says_so() -> None:
    levels = {"a": 0.0, "b": 1.0}
    findings = decided(ONE_STUDY, levels, made_up(levels))
    assert findings.ranking is None
    assert findings.race.remaining == ["a"]
    assert "Optimizers were not ranked" in words(findings)


def test_the_race_ends_as_soon_as_it_is_settled() -> None:
    log: list[TrialRequest] = []
    levels = {"a": 0.0, "b": 1.0, "c": 1.0}
    decided(RANKED[-1], levels, made_up(levels, log=log))
    raced = Counter(request.contender for request in log if request.stage == "race")
    assert set(raced.values()) == {RANKED[-1].race[0].size}
    studied = {request.study for request in log if request.contender == "b"}
    assert max(studied) < RANKED[-1].ranking[0].size
