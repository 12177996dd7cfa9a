"""Proposals of a model: within the quota, and good enough to find optima that are known exactly."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from thalweg import tasks
from thalweg.comparison import compare
from thalweg.comparison.planning.proposals import propose
from thalweg.comparison.protocol.design import PROPOSAL_ROUNDS
from thalweg.rules import Range

SPACE = {"lr": Range(1e-4, 10.0, "log")}


def test_proposals_gather_where_the_score_is_least_and_repeat_by_seed() -> None:
    tried = [
        ({"lr": lr}, (math.log(lr) - math.log(0.05)) ** 2)
        for lr in (SPACE["lr"].value_at((k + 0.5) / 8) for k in range(8))
    ]
    first = propose(SPACE, tried, 4, seed=3, number=0)
    assert first == propose(SPACE, tried, 4, seed=3, number=0)
    assert all(1e-4 <= pair["lr"] <= 10.0 for pair in first)
    assert 0.02 < first[0]["lr"] < 0.12
    (later,) = propose(SPACE, tried, 1, seed=3, number=7)  # by then a short step from the best
    best = min(tried, key=lambda pair: pair[1])[0]["lr"]
    assert later["lr"] == pytest.approx(best, rel=0.2)
    assert later["lr"] != best


def test_values_without_an_order_are_proposed_as_categories() -> None:
    space = {"kind": Range(0, 2, values=("a", "b", "c")), "lr": SPACE["lr"]}
    tried = [({"kind": "abc"[k % 3], "lr": 10.0 ** -(k % 4)}, 1.0 - (k % 3 == 1)) for k in range(9)]
    proposals = propose(space, tried, 4, seed=0, number=1)
    assert {type(settings["kind"]) for settings in proposals} == {str}
    assert [settings["kind"] for settings in proposals].count("b") >= 3  # the best by far, in the middle


def test_a_refined_study_keeps_to_its_quota_and_comes_nearer_to_the_best() -> None:
    names = ["gd", "gd:lr=1e-6"]  # the second one is so bad that the race is short
    drawn, refined = (compare("quadratic", names, budget="2x16trials", refine=refine) for refine in (False, True))
    (summary, _), (unrefined, _) = refined.contenders, drawn.contenders
    assert summary.name == unrefined.name == "gd"
    assert refined.plan.design.refined
    for study in range(2):
        trials = [trial.trial for trial in summary.trials["search"] if trial.study == study]
        assert sorted(trials) == list(range(16))
    assert sum(map(len, refined.plan.design.rounds(16))) == 16
    assert len(refined.plan.design.rounds(16)) == 1 + PROPOSAL_ROUNDS
    assert summary.value.mean < 0.7 * unrefined.value.mean


def test_a_default_outside_its_range_is_told_at_the_nearest_end() -> None:
    """Weight decay starts at 0, and is searched in its logarithm."""
    comparison = compare(replace(tasks.load("breast-cancer"), passes=2), ["sgd"], budget="26trials", refine=True)
    assert list(comparison.contenders[0].settings)[:1] == ["lr"]
    assert {"lr", "weight_decay"} == set(comparison.contenders[0].searched)


def test_resuming_proposes_the_same(tmp_path: Path) -> None:
    task = replace(tasks.load("linear-regression"), passes=4)

    def stop_soon(progress: object) -> None:
        if getattr(progress, "stage", "") == "search" and getattr(progress, "done", 0.0) >= 6:
            raise KeyboardInterrupt

    try:
        compare(task, ["adam", "sgd"], budget="2x8trials", refine=True, store=tmp_path, watch=stop_soon)
    except KeyboardInterrupt:
        resumed = compare(task, ["adam", "sgd"], budget="2x8trials", refine=True, store=tmp_path)
    whole = compare(task, ["adam", "sgd"], budget="2x8trials", refine=True)
    settings = [
        {summary.name: [trial.settings for trial in summary.trials["search"]] for summary in comparison.contenders}
        for comparison in (resumed, whole)
    ]
    assert settings[0] == settings[1]
    assert {name: len(trials) for name, trials in settings[0].items()} == {"adam": 16, "sgd": 16}
