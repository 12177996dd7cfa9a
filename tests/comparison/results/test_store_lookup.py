"""A store that holds several comparisons: each is looked up by its own key."""

from dataclasses import replace

import pytest

from cases.comparison_records import PLAN, WORKLOAD
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.store import Store
from thalweg.comparison.training.result import TrainingResult
from thalweg.errors import StoreError


def create_store(*keys: str) -> tuple[Store, dict[str, int]]:
    store = Store(None)
    created = {
        key: store.create(
            key,
            workload=replace(WORKLOAD, name=key),
            contenders=[],
            plan=replace(PLAN, seed=seed),
            environment={},
        )
        for seed, key in enumerate(keys)
    }
    return store, {key: record.id for key, record in created.items()}


def make_trial(contender: str, stage: str, study: int = 0, number: int = 0, seed: int = 0) -> TrialRecord:
    return TrialRecord(contender, stage, study, number, seed, {"lr": 0.1}, TrainingResult("ok", 1.0, 2.0, 3.0, 0.5))


def test_each_of_several_comparisons_is_looked_up_by_its_key() -> None:
    store, ids = create_store("first", "second", "third")
    assert len(set(ids.values())) == 3
    for seed, (key, number) in enumerate(ids.items()):
        record = store.find(key)
        assert record is not None
        assert (record.id, record.key, record.plan) == (number, key, replace(PLAN, seed=seed))
    assert store.find("fourth") is None
    newest = store.find()
    assert newest is not None
    assert newest.key == "third"
    assert Store(None).find() is None


def test_create_returns_the_comparison_it_created() -> None:
    store, ids = create_store("first", "second")
    created = store.create("a third", workload=WORKLOAD, contenders=[], plan=PLAN, environment={})
    assert created.key == "a third"
    assert created.id not in ids.values()


def test_results_are_those_of_one_comparison_stage_and_contender() -> None:
    store, ids = create_store("first", "second")
    store.add(ids["first"], [make_trial("a", "search"), make_trial("a", "race"), make_trial("b", "search")])
    store.add(ids["second"], [make_trial("a", "search", number=5)])
    first = store.trials(ids["first"])
    assert sorted((record.contender, record.stage) for record in first) == [
        ("a", "race"),
        ("a", "search"),
        ("b", "search"),
    ]
    assert [record.contender for record in store.trials(ids["first"], "search", "b")] == ["b"]
    assert [record.stage for record in store.trials(ids["first"], "race")] == ["race"]
    assert {record.stage for record in store.trials(ids["first"], contender="a")} == {"race", "search"}
    assert [record.trial for record in store.trials(ids["second"])] == [5]
    result = first[0].result
    assert (result.train, result.validation, result.test, result.test_error) == (1.0, 2.0, 3.0, 0.5)


def test_results_come_in_the_order_of_studies_trials_and_seeds() -> None:
    store, ids = create_store("only")
    order = [(study, number, seed) for study in (0, 1) for number in (0, 1, 2) for seed in (3, 4)]
    store.add(ids["only"], [make_trial("a", "search", *place) for place in reversed(order)])
    assert [(record.study, record.trial, record.seed) for record in store.trials(ids["only"])] == order


def test_a_change_to_one_comparison_leaves_the_others() -> None:
    store, ids = create_store("first", "second")
    for change, is_finished in (("finish", True), ("reopen", False)):
        getattr(store, change)(ids["first"])
        first, second = store.find("first"), store.find("second")
        assert first is not None
        assert (first.finished is not None) == is_finished
        assert second is not None
        assert second.finished is None


def test_only_failed_trainings_are_replaced() -> None:
    store, ids = create_store("first", "second")
    ended, failed = make_trial("a", "search"), make_trial("a", "search", number=1)
    failed = replace(failed, result=TrainingResult("failed", message="OSError: gone", traceback="line 1"))
    for number in ids.values():
        store.add(number, [ended, failed])
    assert store.trials(ids["first"])[1].result == failed.result
    again = replace(failed, result=ended.result)
    store.add(ids["first"], [again], replaced=[failed, ended])
    assert store.trials(ids["first"]) == [ended, again]
    assert store.trials(ids["second"]) == [ended, failed]
    with pytest.raises(StoreError, match="Another process"):
        store.add(ids["first"], [ended])
