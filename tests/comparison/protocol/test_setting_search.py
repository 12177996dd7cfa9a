"""The search for a setting on synthetic contenders whose truth is known: order, interruption, claims and intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from tests.comparison.protocol.synthetic import (
    MARGIN,
    RACING,
    Source,
    by_number,
    findings_of,
    noisy,
    plain,
    plain_by_number,
    run,
)
from thalweg import statistics
from thalweg.comparison.protocol.conclusion import Trials
from thalweg.comparison.protocol.design import InterimAnalysis, SettingDesign, design_from_json
from thalweg.comparison.protocol.setting_search import search_settings
from thalweg.comparison.protocol.trial import SettingId, TrialRequest, TrialScore

# --- order and shares ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "searched"), [(1, 1), (5, 5), (10, 8), (20, 15), (60, 47), (200, 146)])
def test_small_budgets_spend_most_on_the_search(budget: int, searched: int) -> None:
    design = SettingDesign.for_trainings(budget, num_contenders=2)
    source, findings = run(design, noisy(by_number, 0.02), budget)
    assert source.stages()["search"] >= searched
    assert source.stages()["search"] == budget - design.reserved
    assert findings.evidence is not None
    assert findings.evidence.searched == source.stages()["search"]


def test_stages_follow_one_another_and_share_no_seed() -> None:
    source, findings = run(RACING, noisy(by_number, 0.02), 60)
    order = list(dict.fromkeys(request.stage for request in source.scores))
    assert order == ["search", "final", "race", "value"]
    seeds = {stage: {request.seed for request in source.scores if request.stage == stage} for stage in order}
    assert [len(seeds[stage]) for stage in order] == [1, 2, 6, 4]
    assert len(set().union(*seeds.values())) == 1 + 2 + 6 + 4
    evidence = findings.evidence
    assert evidence is not None
    assert (evidence.final_seeds, evidence.race_seeds, evidence.value_seeds) == (2, 6, 4)
    assert len(findings.value_scores) == 4


def test_the_value_is_that_of_the_evaluation_split_on_seeds_of_its_own() -> None:
    def score(request: TrialRequest) -> TrialScore:
        return TrialScore(-1.0, float(request.seed[2])) if request.stage == "value" else plain(float(request.trial))

    _, findings = run(RACING, score, 60)
    assert findings.value_scores == [0.0, 1.0, 2.0, 3.0]


def test_batches_fill_the_source_and_leave_rounds_to_learn_from() -> None:
    wide = Source("ab", plain_by_number, budget=80, capacity=64)
    search_settings(replace(RACING, rounds=8), wide, cost={"a": 0, "b": 0}, margin=lambda leader: MARGIN)
    assert max(wide.batches[:4]) == 10
    narrow = Source("ab", plain_by_number, budget=80, capacity=3)
    search_settings(RACING, narrow, cost={"a": 0, "b": 0}, margin=lambda leader: MARGIN)
    assert max(narrow.batches) == 3


def test_a_race_that_is_settled_ends_early() -> None:
    design = replace(RACING, race=(InterimAnalysis(3, 0.025), InterimAnalysis(30, 0.025)))
    source, findings = run(design, noisy(by_number, 0.005), 150)
    assert findings.race.settled == "best"
    assert {request.seed[2] for request in source.scores if request.stage == "race"} == {0, 1, 2}


# --- interruption -------------------------------------------------------------------------------------------------


def test_every_interruption_has_an_answer_that_nothing_measured_beats() -> None:
    complete, _ = run(RACING, noisy(by_number, 0.05), 60)
    requests = list(complete.scores)
    strengths = []
    for count in range(len(requests) + 1):
        scores = {request: complete.scores[request] for request in requests[:count]}
        findings = findings_of(RACING, scores)
        strengths.append(findings.race.settled)
        if not count:
            assert findings.race.remaining == []
            assert findings.race.recommended is None
            assert findings.evidence is not None
            assert findings.evidence.untried == ["a", "b"]
            continue
        trials = Trials(RACING, scores, cost={"a": 0, "b": 0}, margin=lambda leader: MARGIN)
        chosen = trials.recommended
        assert chosen is not None
        assert findings.race.recommended == chosen[0]
        assert findings.chosen_settings[chosen[0]] == chosen[1]
        stage, seeds = last_common_stage(trials)
        column = trials.stages[stage]
        for rival, scored in column.items():
            if set(seeds) <= set(scored) and stage != "race":
                best = sum(column[chosen][seed].selection_score for seed in seeds)
                assert best <= sum(scored[seed].selection_score for seed in seeds) + 1e-12, rival
        assert len(findings.value_scores) == trials_of(scores, "value")
    assert strengths[: requests_before(requests, "race") + 3] == ["unraced"] * (requests_before(requests, "race") + 3)
    assert strengths[-1] != "unraced"


def last_common_stage(trials: Trials) -> tuple[str, list[int]]:
    if trials.race is not None:
        return "race", []
    columns = trials.stages.get("final", {})
    late = [setting for setting in trials.finalists[4:] if setting not in columns]  # a start that found no time
    common = set.intersection(*(set(columns.get(each, {})) for each in trials.finalists if each not in late))
    return ("final", sorted(common)) if common else ("search", [0])


def trials_of(scores: Mapping[TrialRequest, TrialScore], stage: str) -> int:
    return sum(request.stage == stage for request in scores)


def requests_before(requests: Sequence[TrialRequest], stage: str) -> int:
    return next(k for k, request in enumerate(requests) if request.stage == stage)


def test_the_order_of_the_store_does_not_matter() -> None:
    source, findings = run(RACING, noisy(by_number, 0.05), 57)
    assert findings_of(RACING, dict(reversed(source.scores.items()))) == findings


def test_a_contender_without_a_training_is_named() -> None:
    scores = {TrialRequest("search", "a", 0, 0, ("search", 0, 0)): plain(1.0)}
    findings = findings_of(RACING, scores)
    assert findings.evidence is not None
    assert findings.evidence.untried == ["b"]
    assert findings.chosen_settings == {"a": SettingId(0, 0)}
    assert findings.untuned_scores == {"a": [], "b": []}
    assert findings.recommended_scores == {}


def test_a_budget_that_ends_early_keeps_trainings_for_the_value() -> None:
    def shrinking(request: TrialRequest) -> TrialScore:
        if request.stage == "final":
            source.left = min(source.left, RACING.value + 3)  # the trainings became slower
        return plain_by_number(request)

    source = Source("ab", shrinking, budget=60)
    search_settings(RACING, source, cost={"a": 0, "b": 0}, margin=lambda leader: MARGIN)
    assert source.stages()["value"] == 4
    assert source.stages()["race"] == 0


# --- lost and stopped trainings ---------------------------------------------------------------------------------------


def test_a_stopped_training_is_no_result() -> None:
    def score(request: TrialRequest) -> TrialScore:
        if request.contender == "b":
            return TrialScore(-9.0, -9.0, completed=False, stopped=True)
        return plain_by_number(request)

    source, findings = run(RACING, score, 60)
    assert findings.race.recommended == "a"
    assert findings.evidence is not None
    assert findings.evidence.stopped == sum(request.contender == "b" for request in source.scores)
    assert findings.evidence.untried == ["b"]


def test_a_setting_that_is_lost_in_the_finals_is_not_recommended() -> None:
    def score(request: TrialRequest) -> TrialScore:
        lost = request.stage == "final" and (request.contender, request.trial) == ("a", 0) and request.seed[2] == 1
        return TrialScore(float(request.trial + 3), 0.0, completed=not lost)

    design = replace(RACING, racers=0, race=())
    source = Source("ab", score, 40, starts=False)
    search_settings(design, source, cost={"a": 0, "b": 0}, margin=lambda leader: MARGIN)
    findings = findings_of(design, source.scores)
    assert (findings.race.recommended, findings.chosen_settings["b"]) == ("b", SettingId(0, 1))


def test_nothing_is_recommended_if_every_setting_is_lost_in_the_race() -> None:
    def score(request: TrialRequest) -> TrialScore:
        return replace_completed(plain_by_number(request), request.stage != "race")

    _, findings = run(RACING, score, 60)
    assert findings.race.recommended is None
    assert findings.value_scores == []


def replace_completed(score: TrialScore, completed: bool) -> TrialScore:
    return score._replace(completed=completed)


# --- contenders in the race -------------------------------------------------------------------------------------------


def test_the_race_is_told_by_contender() -> None:
    def truth(name: str, trial: int) -> float:
        return {"a": 0.0, "b": 0.5, "c": 0.9}[name] + (0.0 if trial >= 0 else 0.05)

    source, findings = run(RACING, noisy(truth, 0.01), 60, names="abc")
    race = findings.race
    assert (race.settled, race.remaining, race.recommended) == ("best", ["a"], "a")
    raced = {request.contender for request in source.scores if request.stage == "race"}
    assert race.dropped == [[name for name in "b" if name in raced]]
    assert race.unraced == [name for name in "bc" if name not in raced]
    assert all(not race.scores[name] for name in race.unraced)
    assert len(race.scores["a"]) == 6


def test_designs_are_stored() -> None:
    for trainings in (3, 10, 20, 60, 200, 600, 5000):
        design = SettingDesign.for_trainings(trainings, 5)
        assert design_from_json(design.to_json()) == design
        assert design.reserved <= 0.4 * trainings
        assert sum(analysis.alpha for analysis in design.race) <= 0.05 + 1e-12


# --- error rates on a synthetic truth ---------------------------------------------------------------------------------


def test_claims_and_intervals_hold_on_a_synthetic_truth() -> None:
    """Contenders a, b and c differ by 0, 0.01 and 0.04; settings by a bowl. The noise is 0.05."""
    lead = {"a": 0.0, "b": 0.01, "c": 0.04}

    def truth(name: str, trial: int) -> float:
        return lead[name] + 0.1 * ((trial * 7919 % 101) / 101) ** 2

    covered, false, claims = [], 0, 0
    design = SettingDesign.for_trainings(150, 3)
    for seed in range(300):
        _, findings = run(design, noisy(truth, 0.05, seed), 150, names="abc", capacity=8)
        name = findings.race.recommended
        assert name is not None
        value = statistics.interval(findings.value_scores)
        true = truth(name, findings.chosen_settings[name].trial)
        covered.append(value.low <= true <= value.high)
        worse = [other for names in findings.race.dropped for other in names]
        claims += bool(worse)
        false += any(truth(other, findings.chosen_settings[other].trial) < true for other in worse)
    assert 0.92 <= sum(covered) / len(covered) <= 0.98
    assert claims > 20  # the share of false claims says something
    assert false / 300 <= 0.05
