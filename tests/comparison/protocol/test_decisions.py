"""Decisions on tables of scores in which the inputs disagree, and at boundaries: each choice shows what it reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from thalweg.comparison.protocol.design import Design, InterimAnalysis
from thalweg.comparison.protocol.procedure import Findings, decide
from thalweg.comparison.protocol.trial import TrialRequest, TrialScore

DESIGN = Design(
    draws=4,
    retrained=2,
    reseeds=2,
    judged=2,
    ranking=(InterimAnalysis(2, 0.05),),
    finalists=2,
    refinals=2,
    race=(InterimAnalysis(4, 0.05),),
    value=3,
)
MARGIN = 0.03
Score = Callable[[TrialRequest], TrialScore]


class Table:
    """Answers requests by a function of the request, and records them."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.requests: list[TrialRequest] = []

    def __call__(self, requests: Sequence[TrialRequest]) -> Mapping[TrialRequest, TrialScore]:
        self.requests += requests
        return {request: self.score(request) for request in requests}

    def settings(self, stage: str, contender: str) -> set[tuple[int, int]]:
        """Return the settings that were trained in a stage, as (study, trial)."""
        return {
            (request.study, request.trial)
            for request in self.requests
            if (request.stage, request.contender) == (stage, contender)
        }

    def studies(self, contender: str) -> set[int]:
        """Return the studies in which a contender was searched."""
        return {study for study, _ in self.settings("search", contender)}


def decide_table(
    table: Table,
    names: str = "a",
    design: Design = DESIGN,
    cost: Mapping[str, int] | None = None,
    *,
    trades: bool = False,
) -> Findings:
    draws = dict.fromkeys(names, design.draws)
    cost = cost or dict.fromkeys(names, 0)
    return decide(design, draws, table, cost=cost, margin=lambda leader: MARGIN, trades=trades)


def opposed_score(selection: float) -> TrialScore:
    """Return scores in which the selection split and the evaluation split disagree."""
    return TrialScore(selection, -selection)


def index_of(request: TrialRequest) -> int:
    return request.seed[2]


# --- which setting a study evaluates, and which setting races ---------------------------------------------------------

SEARCHED = [3.0, 1.0, 0.0, 2.0]  # by trial: 2 and 1 are the best


def score_of_studies(retrained: Mapping[int, Sequence[float]]) -> Score:
    """Return scores of a search, and of settings that are trained again, by trial and seed."""

    def score(request: TrialRequest) -> TrialScore:
        if request.stage == "search":
            return opposed_score(SEARCHED[request.trial])
        if request.stage == "retrain":
            return opposed_score(retrained[request.trial][index_of(request)])
        return TrialScore(0.0, 0.0)

    return score


def test_a_study_retrains_the_settings_that_are_best_by_the_selection_split() -> None:
    table = Table(score_of_studies({1: [0.0, 0.0], 2: [1.0, 1.0]}))
    decide_table(table)
    assert table.settings("retrain", "a") == {(0, 1), (0, 2), (1, 1), (1, 2)}


@pytest.mark.parametrize(
    ("retrained", "best"),
    [
        ({1: [0.5, 0.5], 2: [1.0, 1.0]}, 1),  # the search preferred 2, and so does the evaluation split
        ({1: [1.0, 1.0], 2: [0.5, 0.5]}, 2),
        ({1: [0.0, 3.0], 2: [1.0, 1.0]}, 2),  # 1 has the best seed and the worse mean
        ({1: [2.0, -1.0], 2: [1.0, 1.0]}, 1),  # 1 has the worst seed and the better mean
    ],
)
def test_a_study_evaluates_the_retrained_setting_with_the_best_mean_of_the_selection_split(
    retrained: dict[int, list[float]], best: int
) -> None:
    table = Table(score_of_studies(retrained))
    decide_table(table)
    assert table.settings("judge", "a") == {(0, best), (1, best)}
    # The settings of all studies are pooled; without finals the best of the pool races.
    table = Table(score_of_studies(retrained))
    findings = decide_table(table, design=replace(DESIGN, finalists=0, refinals=0))
    assert findings.chosen_settings == {"a": (0, best)}
    assert table.settings("race", "a") == {(0, best)}


def test_without_retraining_the_search_decides() -> None:
    table = Table(score_of_studies({}))
    findings = decide_table(table, design=replace(DESIGN, retrained=1, reseeds=0, finalists=0, refinals=0, ranking=()))
    assert findings.chosen_settings == {"a": (0, 2)}


def test_equal_settings_are_told_apart_by_their_numbers() -> None:
    table = Table(lambda request: TrialScore(0.0, -request.trial))
    decide_table(table)
    assert table.settings("retrain", "a") == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert table.settings("judge", "a") == {(0, 0), (1, 0)}


@pytest.mark.parametrize(
    ("second", "chosen"),
    [([-3.0, 4.0], (1, 2)), ([3.0, -4.0], (1, 2)), ([0.0, 3.0], (0, 1))],  # the best seed is always the second's
)
def test_finalists_are_the_best_of_the_pool_and_the_selection_split_chooses_among_them(
    second: list[float], chosen: tuple[int, int]
) -> None:
    retrained = {(0, 1): 0.5, (0, 2): 3.0, (1, 1): 2.0, (1, 2): 1.0}  # by study and trial
    finals = {(0, 1): [1.0, 1.0], (1, 2): second}

    def score(request: TrialRequest) -> TrialScore:
        setting = (request.study, request.trial)
        if request.stage == "search":
            return opposed_score(SEARCHED[request.trial])
        if request.stage == "retrain":
            return opposed_score(retrained[setting])
        if request.stage == "final":
            return opposed_score(finals[setting][index_of(request)])
        return TrialScore(0.0, 0.0)

    table = Table(score)
    findings = decide_table(table)
    assert table.settings("final", "a") == {(0, 1), (1, 2)}
    assert findings.chosen_settings == {"a": chosen}
    assert table.settings("race", "a") == table.settings("value", "a") == {chosen}


def test_the_first_eight_studies_are_pooled_and_the_ninth_is_not() -> None:
    best = {7: 2.0, 8: 1.0}  # the ninth study, number 8, has the best setting of all

    def score(request: TrialRequest) -> TrialScore:
        return TrialScore(best.get(request.study, 3.0), 0.0)

    design = replace(DESIGN, ranking=(InterimAnalysis(10, 0.05),), finalists=1)
    table = Table(score)
    decide_table(table, design=design)
    assert table.studies("a") == set(range(10))
    assert {study for study, _ in table.settings("final", "a")} == {7}


# --- which contender is dropped, recommended and valued ---------------------------------------------------------------


def test_studies_rank_by_the_mean_of_the_evaluation_split() -> None:
    """By the selection split, by single seeds and by the retrained settings, b would lead."""
    judged = {"a": [0.0, 0.4], "b": [0.9, -0.1]}

    def score(request: TrialRequest) -> TrialScore:
        if request.stage == "judge":
            evaluation = judged[request.contender][index_of(request)] + 1e-4 * request.study
            return TrialScore(-evaluation, evaluation)
        return TrialScore(float(request.contender == "a"), float(request.contender == "a"))

    ranking = decide_table(Table(score), "ab").ranking
    assert ranking is not None
    assert ranking.scores["a"] == pytest.approx([0.2, 0.2001])
    assert ranking.scores["b"] == pytest.approx([0.4, 0.4001])
    assert ranking.dropped == [["b"]]


def test_a_contender_shown_to_be_worse_gets_no_more_studies() -> None:
    design = replace(DESIGN, ranking=(InterimAnalysis(2, 0.025), InterimAnalysis(4, 0.025)))
    levels = {"a": 0.0, "b": 0.0, "c": 5.0}

    def score(request: TrialRequest) -> TrialScore:
        tilt = {"a": 0.1, "b": -0.1}.get(request.contender, 0.0) * (-1) ** request.study  # a and b stay open
        return TrialScore(levels[request.contender], levels[request.contender] + tilt)

    table = Table(score)
    decide_table(table, "abc", design)
    assert table.studies("c") == {0, 1}
    assert table.studies("a") == table.studies("b") == {0, 1, 2, 3}
    assert table.settings("race", "c")  # the other question is open to all


def race_scores(scores: Mapping[str, Sequence[float]], lost: Mapping[str, Sequence[int]] | None = None) -> Score:
    """Return scores of the evaluation split by contender and seed of the race; the selection split disagrees."""

    def score(request: TrialRequest) -> TrialScore:
        if request.stage != "race":
            return TrialScore(0.0, 0.0)
        evaluation = scores[request.contender][index_of(request)]
        completed = index_of(request) not in (lost or {}).get(request.contender, ())
        return TrialScore(-evaluation, evaluation, completed)

    return score


def races(*sizes: int) -> Design:
    return replace(DESIGN, ranking=(), race=tuple(InterimAnalysis(size, 0.05) for size in sizes))


def test_the_race_and_the_value_are_of_the_evaluation_split() -> None:
    race = race_scores({"a": [0.0, 0.1, 0.0, 0.1], "b": [1.0, 1.1, 1.1, 1.0]})

    def score(request: TrialRequest) -> TrialScore:
        if request.stage in ("value", "start", "recommended"):
            return TrialScore(9.0, float(index_of(request)))
        return race(request)

    findings = decide(
        races(4),
        dict.fromkeys("ab", 4),
        Table(score),
        cost={"a": 1, "b": 0},
        margin=lambda leader: MARGIN,
        recommended=["b"],
    )
    assert (findings.race.settled, findings.race.recommended) == ("best", "a")
    assert findings.value_scores == [0.0, 1.0, 2.0]
    assert findings.untuned_scores == {"a": [0.0, 1.0, 2.0, 3.0], "b": [0.0, 1.0, 2.0, 3.0]}
    assert findings.recommended_scores == {"b": [0.0, 1.0, 2.0, 3.0]}


@pytest.mark.parametrize("seeds", [10, 20, 30])
def test_lost_on_exactly_a_tenth_of_the_seeds_is_recommended_and_on_one_more_is_not(seeds: int) -> None:
    scores = {"a": [0.1 * (k % 2) for k in range(seeds)]}
    for num_lost, recommended in ((seeds // 10, "a"), (seeds // 10 + 1, None)):
        race = decide_table(Table(race_scores(scores, {"a": range(num_lost)})), design=races(seeds)).race
        assert race.recommended == recommended


def test_a_contender_shown_to_be_worse_is_not_taken_for_its_cost_unless_losses_are_traded() -> None:
    wave = [0.001, -0.001, 0.001, -0.001]
    scores = {
        "a": [0.0] * 4,
        "b": [0.01 + tilt for tilt in wave],  # worse for sure, by too little to matter
        "c": [0.06 + tilt for tilt in wave],  # worse by twice the margin
    }
    cheap_b, cheap_a = {"a": 1, "b": 0, "c": -1}, {"a": 0, "b": 1, "c": -1}
    for cost, trades, recommended in ((cheap_b, True, "b"), (cheap_b, False, "a"), (cheap_a, True, "a")):
        race = decide_table(Table(race_scores(scores)), "abc", races(4), cost, trades=trades).race
        assert (race.settled, race.recommended) == ("within", recommended)
        assert race.dropped == [["c"]]
        assert sorted(race.within) == ["a", "b"]
    # Where both cost the same, the better one is recommended, in whatever order they came.
    assert decide_table(Table(race_scores(scores)), "cba", races(4), trades=True).race.recommended == "a"


def test_a_contender_that_is_tied_within_the_margin_is_taken_for_its_cost() -> None:
    scores = {"a": [0.0, 0.004] * 4, "b": [0.004, 0.001] * 4}  # the mean of b is worse, and not shown to be
    race = decide_table(Table(race_scores(scores)), "ab", races(8), {"a": 1, "b": 0}).race
    assert (race.settled, race.remaining, race.recommended) == ("within", ["a", "b"], "b")


def test_a_leader_that_is_often_lost_gives_way_to_one_shown_to_be_a_little_worse() -> None:
    scores = {"a": [0.0] * 8, "b": [0.01, 0.011] * 4}
    race = decide_table(Table(race_scores(scores, {"a": range(4)})), "ab", races(8)).race
    assert (race.settled, race.recommended) == ("within", "b")


def test_a_race_goes_on_from_seed_to_seed_while_it_is_open() -> None:
    wave = [1.0, -1.0] * 4
    table = Table(race_scores({"a": [0.0] * 8, "b": [0.1 + tilt for tilt in wave]}))
    race = decide_table(table, "ab", races(4, 8), {"a": 1, "b": 0}).race
    indices = [index_of(request) for request in table.requests if (request.stage, request.contender) == ("race", "a")]
    assert indices == list(range(8))
    assert race.settled == "open"
    assert race.recommended == "a"  # the cheaper one is not shown to be near
    # By hand: the differences are 1.1 and -0.9, whose variance is 8/7; (1.96 / 0.03)² 8/7 = 4878.2.
    assert race.seeds_needed == 4879
