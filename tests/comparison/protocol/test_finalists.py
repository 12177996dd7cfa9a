"""Which settings enter the finals and the race, and which one is recommended: never what was measured worse."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.comparison.protocol.synthetic import RACING, Source, by_number, findings_of, noisy, plain, run
from thalweg.comparison.protocol.design import SettingDesign
from thalweg.comparison.protocol.trial import RECOMMENDED, START, SettingId, TrialRequest, TrialScore

FINALS = SettingDesign(finalists=2, final_seeds=2, racers=0, race=(), value=3)


@pytest.mark.parametrize("start", [START, RECOMMENDED])
@pytest.mark.parametrize("budget", [6, 20, 60, 200])
def test_a_start_that_was_measured_better_is_recommended(start: SettingId, budget: int) -> None:
    def truth(name: str, trial: int) -> float:
        return -9.0 if (name, trial) == ("b", start.trial) else by_number(name, trial)

    _, findings = run(SettingDesign.for_trainings(budget, 2), noisy(truth, 0.02), budget)
    assert (findings.race.recommended, findings.chosen_settings["b"]) == ("b", start)
    scores = findings.untuned_scores if start == START else findings.recommended_scores
    assert scores["b"][0] == pytest.approx(-9.0, abs=0.1)


def test_a_start_that_is_lucky_to_lose_the_search_still_wins_the_finals() -> None:
    def score(request: TrialRequest) -> TrialScore:
        if request.trial == START.trial and request.contender == "a":
            return plain(0.1 if request.stage == "search" else -0.5)
        return plain(0.01 * request.trial if request.trial >= 0 else 0.3)

    source, findings = run(RACING, score, 60)
    assert (findings.race.recommended, findings.chosen_settings["a"]) == ("a", START)
    assert any(request.stage == "race" and request.trial == START.trial for request in source.scores)


def test_a_start_far_behind_costs_no_finals() -> None:
    def score(request: TrialRequest) -> TrialScore:
        return plain(5.0 if request.trial < 0 else 0.01 * request.trial)

    source, _ = run(RACING, score, 60)
    assert not any(request.trial < 0 for request in source.scores if request.stage != "search")


def test_a_start_in_the_race_is_not_passed_over_for_a_cheaper_contender() -> None:
    noise = np.random.default_rng(1).normal(scale=0.001, size=(3, 40))

    def score(request: TrialRequest) -> TrialScore:
        place = {("a", START.trial): 0, ("a", 0): 1}.get((request.contender, request.trial), 2)
        mean = {0: 0.0, 1: 0.001, 2: 0.001}[place] if request.trial in (START.trial, 0, 1) else 0.5
        return plain(mean + (noise[place, request.seed[2]] if request.stage == "race" else 0.0))

    _, findings = run(RACING, score, 60, cost={"a": 1, "b": 0})
    assert (findings.race.recommended, findings.chosen_settings["a"]) == ("a", START)


def lesser_loss(request: TrialRequest) -> TrialScore:
    """Contender b is worse by 0.01 beyond doubt, which is within the margin."""
    noise = 1e-4 * np.random.default_rng([request.seed[2], len(request.contender), request.trial + 9]).normal()
    worse = 0.01 if request.contender == "b" else 0.0
    return plain(worse + float(noise) + (0.0 if request.trial == 1 - (request.contender == "a") else 1.0))


def test_a_lesser_loss_beyond_doubt_is_traded_only_if_asked() -> None:
    _, findings = run(RACING, lesser_loss, 60, cost={"a": 1, "b": 0})
    assert findings.race.recommended == "a"
    _, findings = run(RACING, lesser_loss, 60, cost={"a": 1, "b": 0}, trades=True)
    assert findings.race.recommended == "b"


def test_a_cheaper_contender_that_is_shown_to_be_near_and_not_worse_is_recommended() -> None:
    def score(request: TrialRequest) -> TrialScore:
        own = np.random.default_rng([request.seed[2], ord(request.contender)]).normal(scale=0.004)
        return plain(float(own) + (0.0 if request.trial in (0, 1) else 1.0))

    _, findings = run(RACING, score, 60, cost={"a": 1, "b": 0})
    assert (findings.race.settled, findings.race.recommended) == ("within", "b")


# --- a start that enters the finals late ------------------------------------------------------------------------------


def lucky(fresh: float) -> Callable[[TrialRequest], TrialScore]:
    """Return scores in which the search flatters all but the starts, whose best, 0.0, is far behind by the search."""

    def score(request: TrialRequest) -> TrialScore:
        if request.trial == RECOMMENDED.trial and request.contender == "b":
            return plain(0.0 if request.stage == "search" else 0.25)
        if request.trial < 0:
            return plain(5.0)
        return plain(-3.0 + 0.01 * request.trial if request.stage == "search" else fresh + 0.01 * request.trial)

    return score


def finals_of(source: Source) -> list[tuple[str, int, int]]:
    return [(each.contender, each.trial, each.seed[2]) for each in source.scores if each.stage == "final"]


def test_fresh_seeds_that_show_how_lucky_the_best_was_let_a_start_enter_late() -> None:
    source, findings = run(FINALS, lucky(fresh=0.5), 40)
    assert finals_of(source)[:4] == [("a", 0, 0), ("b", 1, 0), ("a", 0, 1), ("b", 1, 1)]
    assert finals_of(source)[4:] == [("b", RECOMMENDED.trial, 0), ("b", RECOMMENDED.trial, 1)]
    assert (findings.race.recommended, findings.chosen_settings["b"]) == ("b", RECOMMENDED)
    assert findings.evidence is not None
    assert (findings.evidence.final_seeds, findings.evidence.value_seeds) == (2, 3)
    assert findings.evidence.selection_scores["b"] == 0.25


def test_a_start_stays_in_the_finals_whose_other_settings_are_better_than_the_search_showed() -> None:
    def score(request: TrialRequest) -> TrialScore:
        if request.trial < 0:
            return plain(0.1)
        return plain(0.0 if request.stage == "search" else -5.0)

    source, findings = run(FINALS, score, 40)
    assert [trial for _, trial, _ in finals_of(source)] == [0, 1, -2, 0, 1, -2]
    assert findings.chosen_settings["a"] == SettingId(0, 0)


def test_a_late_start_without_the_seeds_of_the_others_is_not_compared() -> None:
    complete, _ = run(FINALS, lucky(fresh=0.5), 40)
    lost = [each for each in complete.scores if each.stage == "final" and (each.trial < 0) is (each.seed[2] == 0)]
    findings = findings_of(FINALS, {each: score for each, score in complete.scores.items() if each not in lost})
    assert (findings.race.recommended, findings.chosen_settings["a"]) == ("a", SettingId(0, 0))


def test_a_late_start_that_is_worse_is_not_recommended() -> None:
    source, findings = run(FINALS, lucky(fresh=-0.1), 40)
    assert len(finals_of(source)) == 6
    assert (findings.race.recommended, findings.chosen_settings["a"]) == ("a", SettingId(0, 0))


@pytest.mark.parametrize(("fresh", "finals"), [(-0.23, 6), (-0.25, 4)])
def test_a_start_enters_late_if_it_is_at_most_eight_margins_behind(fresh: float, finals: int) -> None:
    source, _ = run(FINALS, lucky(fresh), 40)
    assert len(finals_of(source)) == finals


def test_a_late_start_that_the_budget_does_not_pay_for_leaves_the_finals_as_they_are() -> None:
    complete, _ = run(FINALS, lucky(fresh=0.5), 40)
    requests = list(complete.scores)
    late = next(k for k, each in enumerate(requests) if each.stage == "final" and each.trial < 0)
    expected = {late: ("a", SettingId(0, 0)), late + 1: ("a", SettingId(0, 0)), late + 2: ("b", RECOMMENDED)}
    for count, setting in expected.items():
        findings = findings_of(FINALS, {request: complete.scores[request] for request in requests[:count]})
        assert findings.evidence is not None
        assert findings.evidence.final_seeds == 2
        assert findings.race.recommended == setting[0]
        assert findings.chosen_settings[setting[0]] == setting[1]


def test_a_late_start_races() -> None:
    source, findings = run(RACING, lucky(fresh=0.5), 80)
    raced = {(request.contender, request.trial) for request in source.scores if request.stage == "race"}
    assert ("b", RECOMMENDED.trial) in raced
    assert findings.chosen_settings["b"] == RECOMMENDED
