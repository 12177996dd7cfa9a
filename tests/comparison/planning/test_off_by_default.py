"""Settings that are off by default, such as weight decay: turns in each part of their range, and steps from 0."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

import thalweg
from tests.comparison.planning.synthetic import search, spaces_of
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.adaptive.candidates import Tried, candidate_blocks
from thalweg.comparison.planning.adaptive.search_space import SearchSpace, search_space_of
from thalweg.comparison.protocol.trial import START
from thalweg.rules import Range
from thalweg.tasks.tuning.tunable import tunables_of


def decayed(space: SearchSpace, settings: Mapping[str, float]) -> float:
    """A truth in which only weight decay from 1e-3 to 0.1 helps: no small step leads there from none."""
    helps = 1e-3 < settings.get("weight_decay", 0.0) < 0.1
    return 0.1 * space.coordinates(settings)["lr"] ** 2 + (0.0 if helps else 0.3)


@pytest.mark.parametrize("seed", range(4))
def test_weight_decay_that_is_off_by_default_has_turns_in_each_part_of_its_range(seed: int) -> None:
    names = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "nadam")
    tried = search(spaces_of(*names), lambda space, settings: decayed(space, settings) + 0.5, 34, seed=seed)
    amounts = [trial.settings.get("weight_decay", 0.0) for trial in tried]
    assert not any(amounts[:10])  # after one training of each contender and some of its learning rate
    assert next(k for k, amount in enumerate(amounts) if amount > 10**-2.7) < 26
    assert min(trial.score for trial in tried if trial.score is not None) < 0.6


def turns_of(spaces: list[SearchSpace], tried: list[Tried]) -> list[tuple[str, list[float]]]:
    """Return the positions of the blocks that have turns for amounts, by the name of their setting."""
    best = sorted(tried, key=lambda trial: trial.score or 0.0)
    blocks = candidate_blocks(spaces, tried, best, set(), np.random.default_rng(0))
    return [(block.names[0], [float(place) for place in block.positions[:, 0]]) for block in blocks if block.is_new]


def test_each_part_of_a_range_has_one_turn_whatever_the_contender() -> None:
    spaces = spaces_of("adam", "nadam", "adamw")
    tried = [Tried("adam", k, {"lr": 0.001 * (k + 1)}, float(k)) for k in range(10)]
    ((name, places),) = turns_of(spaces, tried)
    assert name == "weight_decay"
    assert [int(3 * place) for place in places] == [1, 2]  # none is as good as a little: the first part was tried
    # Adam's and Nadam's decay have one range, AdamW's is another one and on by default.
    tried += [Tried("adamw", 10, {"weight_decay": 0.05}, 10.0), Tried("nadam", 11, {"weight_decay": 1e-4}, 11.0)]
    ((name, places),) = turns_of(spaces, tried)
    assert [int(3 * place) for place in places] == [2]
    tried += [Tried("adam", 12, {"weight_decay": 0.1}, 12.0)]
    assert turns_of(spaces, tried) == []


@pytest.mark.parametrize(("trainings", "turns"), [(9, 0), (10, 1)])
def test_amounts_have_turns_after_eight_trainings_beyond_one_of_each_contender(trainings: int, turns: int) -> None:
    tried = [Tried("adam", k, {"lr": 0.001 * (k + 1)}, float(k)) for k in range(trainings)]
    assert len(turns_of(spaces_of("adam", "nadam", "sgd"), tried)) == turns


def test_what_is_on_by_default_has_no_turns_and_a_choice_has_them_first() -> None:
    tried = [Tried("adamw", k, {"lr": 0.001 * (k + 1)}, float(k)) for k in range(12)]
    assert turns_of(spaces_of("adamw"), tried) == []
    kinds = tunables_of(lambda kind=thalweg.choice("a", "b"): kind)
    space = search_space_of(replace(parse("adam"), task_settings=kinds))
    tried = [Tried("adam", k, {"lr": 0.001 * (k + 1), "kind": "a"}, float(k)) for k in range(12)]
    assert [name for name, _ in turns_of([space], tried)] == ["kind"]
    tried += [Tried("adam", 12, {"lr": 0.1, "kind": "b"}, 12.0)]
    assert [name for name, _ in turns_of([space], tried)] == ["weight_decay"]


def test_trainings_of_contenders_whose_weight_decay_means_something_else_do_not_count() -> None:
    """Adam's has another range than Lion's; AdamW's has the same one, and is on by default."""
    spaces = spaces_of("lion", "adam", "adamw")
    tried = [Tried("lion", k, {"lr": 0.001 * (k + 1)}, float(k)) for k in range(10)]
    for name, value in (("adam", 0.1), ("adam", 1e-4), ("adamw", 1.0), ("adamw", 0.01)):
        tried.append(Tried(name, len(tried), {"weight_decay": value}, 20.0))
    ((_, places),) = turns_of(spaces, tried)
    assert [int(3 * place) for place in places] == [1, 2]


@pytest.mark.parametrize("batch", [4, 5, 11])
def test_a_batch_may_end_the_starting_points(batch: int) -> None:
    names = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "nadam")
    tried = search(spaces_of(*names), decayed, 24, batch=batch)
    assert {trial.contender for trial in tried[:6]} == set(names)
    assert len(tried) == 24


def test_what_is_off_by_default() -> None:
    """A learning rate or a momentum outside of its range, an ε below it, and a range that reaches 0 are not off."""
    off = {(name, setting) for name in CONTENDERS for setting in search_space_of(CONTENDERS[name]).off}
    assert {setting for _, setting in off} == {"weight_decay", "momentum"}
    assert {name for name, setting in off if setting == "momentum"} == {"shampoo"}
    assert {("adam", "weight_decay"), ("lion", "weight_decay")} <= off
    assert not {("adamw", "weight_decay"), ("muon", "weight_decay")} & off
    space = search_space_of(parse("adam"), {"weight_decay": Range(1e-4, 1e-2, "log")})
    assert space.starts[START.trial]["weight_decay"] == 0.0
    assert [space.is_off("weight_decay", value) for value in (0.0, 1e-4, 2e-4)] == [True, True, False]
    of_user = search_space_of(parse("adam:weight_decay=1e-4..1e-2"))
    assert of_user.starts[START.trial]["weight_decay"] == 1e-4
    assert of_user.off == {"weight_decay"}
    assert not search_space_of(replace(parse("adam"), ranges={"weight_decay": Range(0.0, 1e-2)})).off


def test_a_step_from_no_weight_decay_leads_anywhere_in_its_range() -> None:
    spaces = spaces_of("adam")
    for decay, far in ((0.0, True), (1e-6, True), (2e-6, False)):
        tried = [Tried("adam", k, {"lr": 0.001 * (k + 1), "weight_decay": decay}, float(k)) for k in range(12)]
        blocks = candidate_blocks(spaces, tried, tried, set(), np.random.default_rng(0))
        steps = [block for block in blocks if block.center.get("lr") == 0.001 and len(block.names) > 1]
        column = list(steps[0].names).index("weight_decay")
        places = steps[0].positions[steps[0].moving[:, column], column]
        assert bool(places.max() > 0.8) is far
        assert bool(places.mean() > 0.35) is far
