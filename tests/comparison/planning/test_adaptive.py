"""Proposals of the adaptive search: starting points, one model of all contenders, ranges, waiting trainings."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import thalweg
from tests.comparison.planning.synthetic import bowl, search, spaces_of
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.adaptive.candidates import Tried
from thalweg.comparison.planning.adaptive.proposals import _greatest, _Turns, compressed, propose_trials, widened
from thalweg.comparison.planning.adaptive.search_space import SearchSpace, search_space_of
from thalweg.comparison.planning.adaptive.surrogate import Points, Surrogate
from thalweg.comparison.protocol.trial import RECOMMENDED, START
from thalweg.rules import Range
from thalweg.tasks.tuning.tunable import tunables_of

# --- starting points --------------------------------------------------------------------------------------------------


def test_starting_points_come_first_and_those_that_were_measured_lead() -> None:
    proposals = propose_trials(spaces_of("rmsprop", "signum", "adam", "sgd"), [], 4, seed=0)
    assert [proposal.contender for proposal in proposals] == ["adam", "sgd", "rmsprop", "signum"]
    assert [proposal.trial for proposal in proposals] == [RECOMMENDED.trial, RECOMMENDED.trial, 0, 1]
    assert proposals[0].settings["lr"] == 0.01
    assert proposals[0].settings["beta1"] == 0.973


def test_a_contender_without_a_starting_point_gets_the_step_length_of_adam() -> None:
    rate = {space.contender: space.anchor["lr"] for space in spaces_of("rmsprop", "signum", "nadamw", "adam", "muon")}
    assert rate["adam"] == 0.01
    assert 0.002 < rate["rmsprop"] < 0.01
    assert 0.002 < rate["signum"] < 0.004  # some 26 times its default: a step is as long as its learning rate
    assert 0.005 < rate["nadamw"] < 0.02
    assert 0.01 < rate["muon"] < 0.03  # that of Muon on a hidden matrix of width 64


def test_a_wrapped_rule_starts_where_the_rule_does() -> None:
    spaces = spaces_of("cautious(adamw)", "clip(sgd)", "then(adam,sgd):switch_at=5", "prodigy", "lbfgs")
    assert [space.anchor.get("lr") for space in spaces] == [0.01, 0.59, 0.01, 1.0, None]


def test_defaults_keep_their_number() -> None:
    proposals = propose_trials(spaces_of("prodigy", "adam:lr=0.5"), [], 2, seed=0)
    assert [proposal.trial for proposal in proposals] == [START.trial, START.trial]
    assert proposals[1].settings["beta1"] == 0.9
    assert "lr" not in proposals[1].settings  # the user's own


def test_fewer_are_proposed_if_nothing_is_left() -> None:
    (space,) = spaces_of("lbfgs")
    first = propose_trials([space], [], 3, seed=0)
    assert [(proposal.trial, proposal.settings) for proposal in first] == [(START.trial, {})]
    assert propose_trials([space], [Tried(*first[0], 1.0)], 3, seed=0) == []


# --- proposals --------------------------------------------------------------------------------------------------------


def test_proposals_are_new_numbered_on_and_inside_the_ranges() -> None:
    spaces = spaces_of("adam", "momentum", "signum")
    tried = search(spaces, bowl({}), 60, batch=4)
    by_name = {space.contender: space for space in widened(spaces, tried)}
    keys = [(trial.contender, tuple(sorted(trial.settings.items()))) for trial in tried]
    assert len(set(keys)) == 60
    numbers = [trial.trial for trial in tried if trial.trial >= 0]
    assert numbers == list(range(len(numbers)))
    for trial in tried:
        if trial.trial < 0:
            continue
        space = by_name[trial.contender]
        for name, value in trial.settings.items():
            inside = space.ranges[name].low <= value <= space.ranges[name].high
            assert inside or value == space.anchor[name] or value == space.starts[START.trial][name]


def test_the_same_arguments_give_the_same_proposals() -> None:
    spaces = spaces_of("adam", "sgd")
    tried = search(spaces, bowl({}), 12)
    again = propose_trials(spaces, tried, 5, seed=3)
    assert propose_trials(spaces, list(reversed(tried)), 5, seed=3) == again
    assert propose_trials(spaces, tried, 5, seed=4) != again


def test_the_learning_rate_varies_first() -> None:
    spaces = spaces_of("adam")
    tried = search(spaces, bowl({}), 12)
    changed = [{name for name, value in trial.settings.items() if value != spaces[0].anchor[name]} for trial in tried]
    defaults = {name for name, value in spaces[0].starts[START.trial].items() if value != spaces[0].anchor[name]}
    assert changed[0] == set()
    assert all(names <= {"lr"} | defaults for names in changed[:2])
    assert all(names <= {"lr", "beta1"} for names in changed[:8])
    assert any(names - {"lr", "beta1"} for names in changed[8:])


def test_the_best_is_found_and_the_better_contenders_get_more() -> None:
    spaces = spaces_of("adam", "sgd", "signum", "adagrad")
    tried = search(spaces, bowl({"adam": 0.0, "sgd": 0.3, "signum": 0.6, "adagrad": 0.6}), 40, batch=2)
    best = min(tried, key=lambda trial: trial.score if trial.score is not None else np.inf)
    assert best.contender == "adam"
    assert best.score is not None
    assert best.score < 0.02
    counts = Counter(trial.contender for trial in tried)
    assert counts["adam"] > 15
    assert all(counts[name] >= 1 for name in ("sgd", "signum", "adagrad"))


def test_what_one_contender_shows_of_the_learning_rate_warms_up_the_others() -> None:
    """After ten trainings of Adam, whose best rate is a decade above its start, Signum is first tried there."""
    spaces = spaces_of("adam", "signum")
    truth = bowl({}, decades=1.0)
    alone = search(spaces[:1], truth, 10)
    start = Tried("signum", 90, spaces[1].anchor, truth(spaces[1], spaces[1].anchor) - 0.02)
    proposals = propose_trials(spaces, [*alone, start], 6, seed=0)
    first = next(each for each in proposals if each.contender == "signum" and each.trial != START.trial)
    assert 0.4 < spaces[1].coordinates(first.settings)["lr"] < 1.6


def test_values_without_an_order_are_equally_far_from_one_another() -> None:
    kinds = tunables_of(lambda kind=thalweg.choice("a", "b", "c"), size=thalweg.choice(1, 2): kind)
    space = search_space_of(replace(parse("sgd"), task_settings=kinds))
    assert space.columns("lr") == ["lr"]
    assert space.columns("kind") == ["kind='a'", "kind='b'", "kind='c'"]
    places = space.places("kind", [1 / 6, 3 / 6, 5 / 6])
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    assert np.allclose(distances, 0.5 * (1 - np.eye(3)))
    size = space.places("size", [0.25, 0.75])
    assert abs(size[1] - size[0]) == pytest.approx(0.5)  # as far as the two values of a choice of numbers


def test_a_search_finds_the_value_in_the_middle_that_its_neighbours_do_not_show() -> None:
    names = ("a", "b", "c", "d", "e", "f", "g")
    kinds = tunables_of(lambda kind=thalweg.choice(*names): kind)
    space = search_space_of(replace(parse("sgd"), task_settings=kinds))
    tried = search([space], lambda _, settings: 1.0 - (settings["kind"] == "d") + 0.01 * settings["lr"], 24)
    assert {trial.settings["kind"] for trial in tried[:16]} >= set("abcd")  # new values have turns
    kinds_of_all = [trial.settings["kind"] for trial in tried]
    assert kinds_of_all.count("d") >= 8


def test_waiting_trainings_are_not_proposed_again() -> None:
    spaces = spaces_of("adam", "sgd")
    tried = search(spaces, bowl({}), 10)
    batch = propose_trials(spaces, tried, 1, seed=0)
    waiting = [*tried, Tried(*batch[0], None)]
    (after,) = propose_trials(spaces, waiting, 1, seed=0)
    assert after.settings != batch[0].settings
    assert after.trial == batch[0].trial + 1


def test_a_waiting_training_tells_of_its_neighbours() -> None:
    """Candidates 0 and 1 resemble the training that waits, 2 is somewhat worse and elsewhere."""
    mean = np.array([0.0, 0.0, 0.1, 0.0])
    covariance = np.array([[1.0, 0.9, 0.0, 0.99], [0.9, 1.0, 0.0, 0.99], [0.0, 0.0, 1.0, 0.0], [0.99, 0.99, 0.0, 1.0]])

    def turns() -> _Turns:
        return _Turns(["adam"] * 3, np.zeros(3, dtype=bool), {"adam": 0})

    assert next(_greatest(mean, covariance, 3, 0.0, turns())) == 2
    assert next(_greatest(mean[:3], covariance[:3, :3], 3, 0.0, turns())) == 0
    assert list(_greatest(mean[:3], covariance[:3, :3], 3, 0.0, turns())) == [0, 2, 1]


def test_every_fourth_training_is_for_a_start_that_is_not_hopeless() -> None:
    turns = _Turns(["adam", "adam", "sgd"], np.array([False, True, True]), {"adam": 2, "sgd": 1})
    left, lowest = np.ones(3, dtype=bool), np.array([0.0, -1.0, 2.0])
    assert list(turns.eligible(left, lowest, best=0.5)) == [False, True, False]
    assert list(turns.eligible(left, lowest, best=-2.0)) == [True, True, True]
    assert list(turns.eligible(np.array([True, False, True]), lowest, best=0.5)) == [True, False, True]
    turns.count(0)
    assert list(turns.eligible(left, lowest, best=0.5)) == [True, True, True]


def test_a_contender_that_was_hardly_tried_gets_its_part_of_the_equal_share() -> None:
    """Of 47 trainings an eighth is 5.9: 2.9 for each of two contenders."""
    left, lowest = np.ones(3, dtype=bool), np.array([0.0, -1.0, 2.0])
    for count, eligible in ((2, [False, False, True]), (3, [False, True, False])):
        turns = _Turns(["adam", "adam", "sgd"], np.array([False, True, False]), {"adam": 47 - count, "sgd": count})
        assert list(turns.eligible(left, lowest, best=0.5)) == eligible
        turns.count(0)
        assert list(turns.eligible(left, lowest, best=0.5)) == [True, True, True]  # not its turn
    turns = _Turns(["adam", "adam"], np.array([False, True]), {"adam": 47, "sgd": 0})  # nothing of it is left to try
    assert list(turns.eligible(left[:2], lowest[:2], best=0.5)) == [False, True]


def test_no_contender_is_hardly_tried_in_a_long_search() -> None:
    """Far better scores draw the search to one contender; a quarter of an eighth goes to each of four all the same."""
    spaces = spaces_of("sgd", "adam", "signum", "adamw")
    tried = search(spaces, bowl({"adam": -50.0}), 160)
    counts = Counter(trial.contender for trial in tried)
    assert min(counts.values()) >= 5
    assert counts["adam"] > 80


@pytest.mark.parametrize(("name", "searched"), [("sgd:lr=0.1", "weight_decay"), ("adam:lr=0.01", "beta1")])
def test_a_contender_with_a_fixed_learning_rate_is_searched(name: str, searched: str) -> None:
    """The learning rate varies first, but where it is fixed, what would come next does."""
    spaces = spaces_of("adamw", name)
    tried = search(spaces, lambda space, settings: 1.0 + (space.contender == "adamw"), 24)
    values = {trial.settings[searched] for trial in tried if trial.contender == name}
    assert len(values) > 5


# --- ranges -----------------------------------------------------------------------------------------------------------


def at_rate(space: SearchSpace, rate: float, score: float, trial: int = 0) -> Tried:
    return Tried(space.contender, trial, {**space.anchor, "lr": rate}, score)


@pytest.mark.parametrize(
    ("rate", "ends"),
    [(0.9, (1e-5, 10.0)), (9.0, (1e-5, 100.0)), (90.0, (1e-5, 100.0)), (1.2e-5, (1e-6, 1.0)), (0.1, (1e-5, 1.0))],
)
def test_a_learning_rate_at_its_end_extends_the_range_twice_at_most(rate: float, ends: tuple[float, float]) -> None:
    (space,) = spaces_of("adam")
    (wider,) = widened([space], [at_rate(space, rate, 0.0), at_rate(space, 0.01, 1.0, 1)])
    assert (wider.ranges["lr"].low, wider.ranges["lr"].high) == pytest.approx(ends)


def test_an_end_that_is_not_the_best_extends_nothing() -> None:
    (space,) = spaces_of("adam")
    assert widened([space], [at_rate(space, 0.9, 1.0), at_rate(space, 0.01, 0.0, 1)]) == [space]


def test_a_range_of_the_user_is_never_extended() -> None:
    spaces = spaces_of("adam:lr=1e-4..1e-2")
    assert widened(spaces, [at_rate(spaces[0], 0.01, 0.0)]) == spaces
    tried = search(spaces, bowl({}, decades=2.0), 25)
    assert max(trial.settings["lr"] for trial in tried) <= 0.01


def test_a_best_rate_beyond_the_range_is_found() -> None:
    spaces = spaces_of("adam")
    tried = search(spaces, bowl({}, decades=2.6), 40)
    best = min(tried, key=lambda trial: trial.score if trial.score is not None else np.inf)
    assert best.settings["lr"] == pytest.approx(0.01 * 10**2.6, rel=0.5)


def test_ranges_of_the_plan_replace_the_declared_ones() -> None:
    space = search_space_of(parse("adam"), {"lr": Range(0.1, 10.0, "log")})
    assert (space.ranges["lr"].low, space.anchor["lr"]) == (0.1, 0.1)


# --- the model --------------------------------------------------------------------------------------------------------


def test_the_model_passes_near_its_points_and_knows_less_farther_away() -> None:
    places = np.array([[-1.0], [0.0], [1.0]])
    model = Surrogate(Points(places, np.zeros(3, dtype=int)), [1.0, 0.0, 1.0], [1])
    mean, covariance = model.predict(Points(np.array([[0.0], [1.0], [4.0]]), np.zeros(3, dtype=int)))
    assert mean[:2] == pytest.approx([0.0, 1.0], abs=0.05)
    assert covariance[2, 2] > 5 * covariance[0, 0]
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


def test_another_contender_is_expected_to_resemble() -> None:
    points = Points(np.array([[-1.0], [0.0], [1.0]]), np.zeros(3, dtype=int))
    mean, covariance = Surrogate(points, [1.0, 0.0, 1.0], [1]).predict(
        Points(np.array([[0.0], [1.0]]), np.ones(2, int))
    )
    assert mean[0] < mean[1] - 0.1
    assert covariance[0, 0] > 0.1 * np.var([1.0, 0.0, 1.0])


def test_bad_scores_are_drawn_together() -> None:
    scores = compressed([0.0, 1.0, 2.0, 3.0, 1000.0])
    assert scores[:3] == [0.0, 1.0, 2.0]
    assert 2.0 < scores[3] < 3.0
    assert scores[3] < scores[4] < 20.0
    assert compressed([1.0, 1.0, 1.0, 5.0]) == [1.0, 1.0, 1.0, 5.0]


def test_all_combinations_that_share_their_rate_with_muon_start_at_its_measured_rate() -> None:
    measured = parse("muon+adamw").recommended["lr"]
    for name in ("muon+adamw", "muon+lion", "clip(muon+adamw)"):
        assert search_space_of(parse(name)).anchor["lr"] == measured, name
    assert search_space_of(parse("muon")).anchor["lr"] != measured  # scales its steps in another way
