"""A suite: comparisons side by side, resumed one by one; a task that fails does not stop the others."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison import Store, TaskProgress
from thalweg.comparison.protocol.score_scale import ScoreScale
from thalweg.comparison.results.terms import worse
from thalweg.errors import BudgetError, SettingError, StoreError, TaskError, UnknownNameError

QUICK = {"budget": "4trials", "workers": 1}


def bowl(name: str, curvature: float, offset: float = 0.0) -> thalweg.tasks.TrainingFunction:
    """Return a task that takes no time: eight steps down a bowl whose floor is `offset`."""

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
    tasks = [bowl("round", 1.0), bowl("long", 4.0)]
    return thalweg.compare_suite(tasks, ["adam", "sgd:lr=1e-9"], budget="50trials", workers=1)  # 100 pay for a race


def test_a_suite_of_real_tasks_shows_its_comparisons(tmp_path: Path) -> None:
    suite = thalweg.compare_suite("linear-regression,breast-cancer", "sgd,adam", store=tmp_path, **QUICK)
    assert list(suite.comparisons) == ["linear-regression", "breast-cancer"]
    for task, comparison in suite.comparisons.items():
        assert (tmp_path / task / "store.sqlite").exists()
        for summary in comparison.contenders:
            standing = suite.matrix[task][summary.name]
            assert standing.worse_by == summary.worse_by
            assert standing.best == (summary is comparison.contenders[0])
            assert standing.tied == (summary.name in comparison.verdict.tied)
    assert suite.aggregate is not None
    assert set(suite.contenders) == set(suite.aggregate.ratio) == {"sgd", "adam"}


def test_the_folder_of_a_suite_is_no_store_and_its_stores_are_named(tmp_path: Path) -> None:
    remedy = "Run `thalweg compare` first."
    with pytest.raises(StoreError, match=remedy):
        Store(tmp_path, write=False)
    for task in ("b", "a"):
        path = tmp_path / task / "store.sqlite"
        thalweg.compare(bowl(task, 1.0), ["sgd"], budget="2trials", workers=1, quiet=True, store=path)
    with pytest.raises(StoreError, match="got no such file. Name ") as error:
        Store(tmp_path, write=False)
    assert f"Name {tmp_path / 'a'}, or another of the 2 folders with a store." in str(error.value)
    assert remedy not in str(error.value)
    assert Store(tmp_path / "a", write=False).find() is not None


def test_ratios_are_to_the_best_of_the_task_from_the_same_seed(suite: thalweg.Suite) -> None:
    assert suite.aggregate is not None
    logs = []
    for comparison in suite.comparisons.values():
        best, worst = comparison.contenders
        assert (best.name, worst.name) == ("adam", "sgd:lr=1e-9")
        raced = [[trial.result.test for trial in summary.trials["race"]] for summary in (worst, best)]
        logs += [math.log(loss / reference) for loss, reference in zip(*raced, strict=True)]
    logs.sort()  # of ten, two and a half are left out at each end
    mean = (0.5 * logs[2] + sum(logs[3:7]) + 0.5 * logs[7]) / 5
    assert suite.aggregate.ratio["sgd:lr=1e-9"].mean == pytest.approx(math.exp(mean))
    assert suite.contenders[-1] == "sgd:lr=1e-9"
    assert suite.aggregate.profiles["sgd:lr=1e-9"].share[0] == 0.0


def test_the_result_is_plain_json_with_all_numbers(suite: thalweg.Suite) -> None:
    result = suite.to_json()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result) == [
        *("tasks", "failures", "pending", "matrix", "interquartile_mean", "profiles"),
        *("headline", "how_sure", "text", "cautions", "missing_parts"),
    ]
    assert result["tasks"]["long"]["verdict"]["best"] == "adam"
    assert result["matrix"]["long"].keys() == result["interquartile_mean"].keys() == set(suite.contenders)
    assert list(result["matrix"]["long"]["adam"]) == [
        *("worse_by", "lost", "seeds", "best", "tied", "worse_by_text", "failed", "failed_trainings", "trainings"),
        *("raced", "ratio", "text", "remarks"),
    ]
    assert result["headline"] == "adam is the best on all 2 tasks."
    assert result["interquartile_mean"]["adam"].keys() == {"mean", "low", "high"}
    assert result["profiles"].keys() == {"ratios", *suite.contenders}
    assert "They do not cover other tasks" in result["cautions"][-1]


def test_a_task_that_fails_is_reported_and_does_not_stop_the_others() -> None:
    reports: list[TaskProgress] = []
    suite = thalweg.compare_suite([broken, bowl("round", 1.0)], ["sgd"], watch=reports.append, **QUICK)
    assert list(suite.comparisons) == ["round"]
    assert "the disk is gone" in str(suite.failures["broken"])
    assert any("the disk is gone" in report.progress.message for report in reports)
    assert {(report.task, report.number, report.tasks) for report in reports} == {("broken", 1, 2), ("round", 2, 2)}
    assert [report.error for report in reports if report.error] == [suite.failures["broken"]]
    assert [report.result for report in reports if report.result] == [suite.comparisons["round"]]
    assert suite.to_json()["failures"].keys() == {"broken"}
    with pytest.raises(TaskError, match=r"all 1 failed, the first with: broken: .*the disk is gone"):
        thalweg.compare_suite([broken], ["sgd"], **QUICK)


def test_a_finished_task_is_not_run_again(tmp_path: Path) -> None:
    tasks = [bowl("round", 1.0), bowl("long", 4.0)]

    def stop(report: TaskProgress) -> None:
        if report.task == "long" and report.progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        thalweg.compare_suite(tasks, ["sgd", "adam"], store=tmp_path, watch=stop, **QUICK)
    reports: list[TaskProgress] = []
    suite = thalweg.compare_suite(tasks, ["sgd", "adam"], store=tmp_path, watch=reports.append, **QUICK)
    run = [report for report in reports if report.result is None]
    assert {report.task for report in run} == {"long"}
    assert run[0].progress.done > 0  # trainings before the interruption count
    reports.clear()
    again = thalweg.compare_suite(tasks, ["sgd", "adam"], store=tmp_path, watch=reports.append, **QUICK)
    assert [(report.task, report.result) for report in reports] == list(again.comparisons.items())  # and nothing else
    assert again.to_json() == suite.to_json()


def test_a_task_without_a_gain_is_left_out_of_the_aggregate() -> None:
    def never(make_optimizer, report):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(-1.0)

    suite = thalweg.compare_suite([never, bowl("round", 1.0)], ["sgd", "adam"], **QUICK)
    assert (
        "never is not in the means and profiles: its best value is no better than the first, so there is no gain to "
        "take a share of."
    ) in suite.left_out
    assert suite.aggregate is not None
    assert suite.text.startswith("Over 1 task, ") or suite.text.startswith("Best mean: ")
    alone = thalweg.compare_suite([never], ["sgd", "adam"], **QUICK)
    assert alone.aggregate is None
    assert alone.text == "There is no mean over all tasks. Each task has its own verdict."


def test_a_contender_that_missed_a_task_is_left_out_and_named() -> None:
    both = thalweg.compare_suite([bowl("round", 1.0)], ["sgd", "adam"], **QUICK)
    alone = thalweg.compare_suite([bowl("long", 4.0)], ["sgd"], **QUICK)
    suite = thalweg.Suite(both.comparisons | alone.comparisons, {})
    assert "adam is not in the means and profiles: it did not take part in long." in suite.left_out
    assert suite.aggregate is not None
    assert list(suite.aggregate.ratio) == ["sgd"]
    assert suite.contenders == ["sgd", "adam"]


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
def test_a_wrong_call_raises(tasks: object, arguments: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        thalweg.compare_suite(tasks, **arguments)


@pytest.mark.parametrize(
    ("share", "text"), [(0.0314, "3.1 %"), (-1e-9, "0.0 %"), (-0.02, "-2.0 %"), (11.0, "12x"), (math.nan, "–")]
)
def test_shares_are_short(share: float, text: str) -> None:
    assert worse(share) == text
