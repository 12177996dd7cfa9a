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


def test_a_refined_study_keeps_to_its_quota_and_comes_nearer_to_the_best() -> None:
    task = tasks.load("quadratic")
    plain = compare(task, ["gd"], budget="16trials").contenders[0]
    refined = compare(task, ["gd"], budget="16trials", refine=True)
    summary = refined.contenders[0]
    assert refined.plan.design.refined
    assert [trial.trial for trial in summary.trials["search"]] == list(range(16))
    assert sum(map(len, refined.plan.design.rounds(16))) == 16
    assert len(refined.plan.design.rounds(16)) == 1 + PROPOSAL_ROUNDS
    assert summary.value.mean < 0.7 * plain.value.mean


def test_a_default_outside_its_range_is_told_at_the_nearest_end() -> None:
    """Weight decay starts at 0, and is searched in its logarithm."""
    comparison = compare(tasks.load("breast-cancer"), ["sgd"], budget="26trials", refine=True)
    assert list(comparison.contenders[0].settings)[:1] == ["lr"]
    assert {"lr", "weight_decay"} == set(comparison.contenders[0].searched)


def test_resuming_proposes_the_same(tmp_path: Path) -> None:
    task = replace(tasks.load("linear-regression"), passes=20)

    def stop_soon(progress: object) -> None:
        if getattr(progress, "stage", "") == "search" and getattr(progress, "done", 0.0) >= 6:
            raise KeyboardInterrupt

    try:
        compare(task, ["adam"], budget="8trials", refine=True, store=tmp_path, watch=stop_soon)
    except KeyboardInterrupt:
        resumed = compare(task, ["adam"], budget="8trials", refine=True, store=tmp_path)
    whole = compare(task, ["adam"], budget="8trials", refine=True)
    settings = [
        [trial.settings for trial in comparison.contenders[0].trials["search"]] for comparison in (resumed, whole)
    ]
    assert settings[0] == settings[1]
    assert len(settings[0]) == 8
