"""A store that holds several comparisons: each is looked up by its own key."""

import pytest

from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.store import Store
from thalweg.comparison.training.result import TrainingResult


def filled(*keys: str) -> tuple[Store, dict[str, int]]:
    store = Store(None)
    created = {
        key: store.create(key, task={"name": key}, contenders=[], plan={"of": key}, environment={}) for key in keys
    }
    return store, {key: record.id for key, record in created.items()}


def trial(contender: str, stage: str, study: int = 0, number: int = 0, seed: int = 0) -> TrialRecord:
    return TrialRecord(contender, stage, study, number, seed, {"lr": 0.1}, TrainingResult("ok", 1.0, 2.0, 3.0, 0.5))


def test_each_of_several_comparisons_is_looked_up_by_its_key() -> None:
    store, ids = filled("first", "second", "third")
    assert len(set(ids.values())) == 3
    for key, number in ids.items():
        record = store.find(key)
        assert record is not None
        assert (record.id, record.key, record.plan) == (number, key, {"of": key})
    assert store.find("fourth") is None
    newest = store.find()
    assert newest is not None
    assert newest.key == "third"
    assert Store(None).find() is None


def test_create_returns_the_comparison_it_created() -> None:
    store, ids = filled("first", "second")
    created = store.create("a third", task={"name": "t"}, contenders=[], plan={}, environment={})
    assert created.key == "a third"
    assert created.id not in ids.values()


def test_results_are_those_of_one_comparison_stage_and_contender() -> None:
    store, ids = filled("first", "second")
    store.add(ids["first"], [trial("a", "search"), trial("a", "race"), trial("b", "search")])
    store.add(ids["second"], [trial("a", "search", number=5)])
    first = store.entries(ids["first"])
    assert sorted((found.contender, found.stage) for found in first) == [
        ("a", "race"),
        ("a", "search"),
        ("b", "search"),
    ]
    assert [found.contender for found in store.entries(ids["first"], "search", "b")] == ["b"]
    assert [found.stage for found in store.entries(ids["first"], "race")] == ["race"]
    assert {found.stage for found in store.entries(ids["first"], contender="a")} == {"race", "search"}
    assert [found.trial for found in store.entries(ids["second"])] == [5]
    result = first[0].result
    assert (result.train, result.validation, result.test, result.test_error) == (1.0, 2.0, 3.0, 0.5)


def test_results_come_in_the_order_of_studies_trials_and_seeds() -> None:
    store, ids = filled("only")
    order = [(study, number, seed) for study in (0, 1) for number in (0, 1, 2) for seed in (3, 4)]
    store.add(ids["only"], [trial("a", "search", *place) for place in reversed(order)])
    assert [(found.study, found.trial, found.seed) for found in store.entries(ids["only"])] == order


@pytest.mark.parametrize("change", ["finish", "forget"])
def test_a_change_to_one_comparison_leaves_the_others(change: str) -> None:
    store, ids = filled("first", "second")
    for number in ids.values():
        store.add(number, [trial("a", "search")])
    getattr(store, change)(ids["first"])
    first, second = store.find("first"), store.find("second")
    assert second is not None
    assert second.finished is None
    assert len(store.entries(ids["second"])) == 1
    if change == "finish":
        assert first is not None
        assert first.finished is not None
    else:
        assert first is None
        assert store.entries(ids["first"]) == []
