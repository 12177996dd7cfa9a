"""A suite: comparisons side by side, resumed one by one, and what does not lose the others."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison import TaskProgress
from thalweg.comparison.protocol.score_scale import ScoreScale
from thalweg.comparison.suite import worse
from thalweg.errors import BudgetError, SettingError, TaskError, UnknownNameError

QUICK = {"budget": "4trials", "workers": 1}


def bowl(name: str, curvature: float, offset: float = 0.0) -> thalweg.tasks.TrainingFunction:
    """A task that takes no time: eight steps down a bowl, which ends at `offset`."""

    def train(make_optimizer, report):
        weight = nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([weight])
        for _ in range(8):
            optimizer.zero_grad()
            loss = (weight * torch.tensor([1.0, curvature])).square().sum()
            loss.backward()
            optimizer.step()
        report(offset + loss.item() + 0.01 * torch.rand(()).item())

    return thalweg.tasks.TrainingFunction(train=train, name=name, source=f"{name} {curvature} {offset}")


def broken(make_optimizer, report):
    raise ValueError("the disk is gone")


@pytest.fixture(scope="module")
def suite() -> thalweg.Suite:
    return thalweg.compare_suite([bowl("round", 1.0), bowl("long", 4.0)], ["sgd", "adam", "sgd:lr=1e-9"], **QUICK)


def test_a_suite_of_real_tasks_is_that_of_its_comparisons(tmp_path: Path) -> None:
    found = thalweg.compare_suite("linear-regression,breast-cancer", "sgd,adam", store=tmp_path, **QUICK)
    assert list(found.comparisons) == ["linear-regression", "breast-cancer"]
    for task, comparison in found.comparisons.items():
        assert (tmp_path / task / "store.sqlite").exists()
        for one in comparison.contenders:
            standing = found.matrix[task][one.name]
            assert standing.worse_by == one.worse_by
            assert standing.best == (one is comparison.contenders[0])
            assert standing.tied == (one.name in comparison.verdict.tied)
    assert found.aggregate is not None
    assert set(found.contenders) == set(found.aggregate.ratio) == {"sgd", "adam"}


def test_ratios_are_to_the_best_of_the_task_from_the_same_seed(suite: thalweg.Suite) -> None:
    assert suite.aggregate is not None
    logs = []
    for comparison in suite.comparisons.values():
        best, *_, worst = comparison.contenders
        assert worst.name == "sgd:lr=1e-9"
        raced = [[one.result.test for one in summary.entries["race"]] for summary in (worst, best)]
        logs += [math.log(loss / beside) for loss, beside in zip(*raced, strict=True)]
    logs.sort()  # of ten, two and a half are left out at each end
    mean = (0.5 * logs[2] + sum(logs[3:7]) + 0.5 * logs[7]) / 5
    assert suite.aggregate.ratio["sgd:lr=1e-9"].mean == pytest.approx(math.exp(mean))
    assert suite.contenders[-1] == "sgd:lr=1e-9"
    assert suite.aggregate.profiles["sgd:lr=1e-9"].share[0] == 0.0


def test_the_result_is_plain_json_with_all_numbers(suite: thalweg.Suite) -> None:
    found = suite.to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found.keys() >= {"tasks", "failures", "matrix", "interquartile_mean", "profiles", "text", "cautions"}
    assert found["tasks"]["long"]["verdict"]["best"] in ("sgd", "adam")
    assert found["matrix"]["long"].keys() == found["interquartile_mean"].keys() == set(suite.contenders)
    assert "They do not cover other tasks" in found["cautions"][-1]


def test_a_task_that_fails_is_said_and_does_not_lose_the_others() -> None:
    told: list[TaskProgress] = []
    found = thalweg.compare_suite([broken, bowl("round", 1.0)], ["sgd"], watch=told.append, **QUICK)
    assert list(found.comparisons) == ["round"]
    assert "the disk is gone" in str(found.failures["broken"])
    assert any("the disk is gone" in one.progress.said for one in told)
    assert {(one.task, one.number, one.tasks) for one in told} == {("broken", 1, 2), ("round", 2, 2)}
    assert found.to_json()["failures"].keys() == {"broken"}
    with pytest.raises(TaskError, match=r"all 1 failed, the first with: broken: .*the disk is gone"):
        thalweg.compare_suite([broken], ["sgd"], **QUICK)


def test_what_is_finished_is_not_run_again(tmp_path: Path) -> None:
    tasks = [bowl("round", 1.0), bowl("long", 4.0)]

    def stop(now: TaskProgress) -> None:
        if now.task == "long" and now.progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        thalweg.compare_suite(tasks, ["sgd", "adam"], store=tmp_path, watch=stop, **QUICK)
    told: list[TaskProgress] = []
    found = thalweg.compare_suite(tasks, ["sgd", "adam"], store=tmp_path, watch=told.append, **QUICK)
    assert {one.task for one in told} == {"long"}
    assert told[0].progress.done > 0  # what was trained before the interruption counts
    told.clear()
    again = thalweg.compare_suite(tasks, ["sgd", "adam"], store=tmp_path, watch=told.append, **QUICK)
    assert told == []
    assert again.to_json() == found.to_json()


def test_a_metric_of_zero_is_left_out_of_what_is_over_all_tasks() -> None:
    def never(make_optimizer, report):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(0.0)

    found = thalweg.compare_suite([never, bowl("round", 1.0)], ["sgd", "adam"], **QUICK)
    assert found.left_out == [
        "never is not in the means and profiles: its best value is 0, and nothing is a share of that."
    ]
    assert found.aggregate is not None
    assert "Next comes adam" in found.text
    alone = thalweg.compare_suite([never], ["sgd", "adam"], **QUICK)
    assert alone.aggregate is None
    assert alone.text == "No contender can be followed over all tasks; each task has its own verdict."


def test_who_missed_a_task_is_left_out_and_said() -> None:
    both = thalweg.compare_suite([bowl("round", 1.0)], ["sgd", "adam"], **QUICK)
    one = thalweg.compare_suite([bowl("long", 4.0)], ["sgd"], **QUICK)
    found = thalweg.Suite(both.comparisons | one.comparisons, {})
    assert found.left_out == ["adam is not in the means and profiles: it did not take part in long."]
    assert found.aggregate is not None
    assert list(found.aggregate.ratio) == ["sgd"]
    assert found.contenders == ["sgd", "adam"]


def test_a_difference_of_scores_is_a_ratio_on_either_scale() -> None:
    log, linear = ScoreScale("log", {}), ScoreScale("linear", {})
    assert log.excess(math.log(1.2), leader=5.0) == math.log(1.2)
    assert linear.excess(0.1, leader=-0.5) == pytest.approx(math.log(1.2))
    assert linear.excess(-0.1, leader=-0.5) == pytest.approx(-math.log(1.2))
    assert math.isnan(linear.excess(0.1, leader=0.0))


@pytest.mark.parametrize(
    ("tasks", "arguments", "kind", "message"),
    [
        ("digits,digts", {}, UnknownNameError, "Did you mean digits"),
        ([bowl("a", 1.0), bowl("a", 2.0)], {}, SettingError, "a name of its own, got 'a' twice"),
        ([], {}, SettingError, "at least one task, got none"),
        ("digits", {"contenders": ["adm"]}, UnknownNameError, "Did you mean adam"),
        ("digits", {"budget": "soon"}, BudgetError, "must read like 90s"),
        ("digits", {"seed": 1.5}, SettingError, "seed must be a whole number"),
        ("digits", {"schedule": "cosin"}, SettingError, "Did you mean cosine"),
    ],
)
def test_what_is_wrong_with_the_call_ends_it(tasks: object, arguments: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        thalweg.compare_suite(tasks, **arguments)


@pytest.mark.parametrize(
    ("share", "text"), [(0.0314, "3.1 %"), (-1e-9, "0.0 %"), (-0.02, "-2.0 %"), (11.0, "12x"), (math.nan, "–")]
)
def test_shares_are_short(share: float, text: str) -> None:
    assert worse(share) == text
