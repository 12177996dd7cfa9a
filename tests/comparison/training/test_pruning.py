"""Pruning: within a study, at shares of the schedule, and what it saves is spent again."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg import tasks
from thalweg.comparison import compare
from thalweg.comparison.contenders.named import CONTENDERS
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.training import pruning
from thalweg.comparison.training.pruning import Rungs, rungs_of
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload

SHORT = replace(tasks.load("breast-cancer"), passes=6)
RATES = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0]


def test_a_third_of_those_that_came_to_a_rung_goes_on() -> None:
    assert Rungs("train", {5: []}).survivors(5, [4.0, 2.0, 9.0, 1.0, 7.0, 8.0]) == [1, 3]
    assert Rungs("train", {5: []}).survivors(5, [4.0]) == [0]  # the first of all goes on
    assert Rungs("train", {5: [1.0, 2.0]}).survivors(5, [1.5]) == []
    assert Rungs("train", {5: [1.0, 2.0]}).survivors(5, [0.5]) == [0]
    assert Rungs("train", {5: [1.0, 2.0, 3.0]}).survivors(5, [1.5]) == [0]  # two of four
    assert Rungs("train", {5: []}).survivors(5, [math.nan, math.inf, math.nan]) == [1]
    assert Rungs("train", {5: []}).survivors(5, [math.nan]) == []
    assert Rungs("train", {5: [1.0]}).survivors(5, [1.0] * 5) == [0]  # two of six, the earlier ones where they tie


def test_rungs_are_shares_of_the_schedule() -> None:
    assert rungs_of(TrainingSchedule(90, "linear")) == [10, 30]
    assert rungs_of(TrainingSchedule(3, "linear")) == [1]
    assert rungs_of(TrainingSchedule(1, "linear")) == []


@pytest.mark.parametrize("draws", [1, 4, 8, 16, 24, 64])
def test_what_is_saved_is_spent_and_no_more(draws: int) -> None:
    schedule = TrainingSchedule(680, "linear")
    drawn = pruning.num_draws_with_pruning(draws, schedule)
    assert pruning.cost_with_pruning(drawn, schedule) <= draws < pruning.cost_with_pruning(drawn + 1, schedule)
    assert drawn > 3 * draws or draws == 1


def test_where_there_is_no_rung_nothing_is_saved_and_nothing_more_is_drawn() -> None:
    assert pruning.num_draws_with_pruning(24, TrainingSchedule(1, "constant")) == 24
    short = pruning.num_draws_with_pruning(24, TrainingSchedule(3, "constant"))
    assert short > 24
    assert pruning.cost_with_pruning(short, TrainingSchedule(3, "constant")) <= 24


def test_a_function_that_reports_once_is_called_as_often_as_without_pruning(tmp_path: Path) -> None:
    calls = tmp_path / "calls"  # a file, since trainings run in other processes

    def train(make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
        with calls.open("a") as file:
            file.write(".")
        param = nn.Parameter(torch.tensor([3.0]))
        optimizer = make_optimizer([param])
        for _ in range(3):
            optimizer.zero_grad()
            param.square().sum().backward()
            optimizer.step()
        report(param.square().sum())

    compare(train, ["sgd", "adam"], budget="2x4trials", workers=1)
    plain = len(calls.read_text())
    compare(train, ["sgd", "adam"], budget="2x4trials", workers=1, prune=True)
    assert len(calls.read_text()) == 2 * plain


def test_a_population_goes_on_with_those_that_are_kept_as_if_they_were_alone() -> None:
    """Those that end are, to the last bits of vmap, what they are without the others; two optimizers side by side."""
    task, schedule = tasks.load("breast-cancer"), TrainingSchedule(45, "linear", num_evaluations=3)
    contenders = [CONTENDERS["adam"]] * 5 + [CONTENDERS["momentum"]] * 4
    trials = [Trial({"lr": rate}, 3) for rate in RATES]
    whole = as_workload(task).train(contenders, trials, schedule)
    rungs = Rungs("validation", {step: [] for step in rungs_of(schedule)})
    pruned = as_workload(task).train(contenders, trials, schedule, rungs=rungs)
    ended = [k for k, result in enumerate(pruned) if result.status != "pruned"]
    assert len(ended) == 1  # nine, three, one
    assert [len(result.evaluations) for result in pruned].count(2) == 6
    for k in ended:
        assert pruned[k].test == pytest.approx(whole[k].test, rel=1e-4)
    at_first_rung = sorted(result.evaluations[1].validation for result in pruned)
    assert max(pruned[k].evaluations[1].validation for k in ended) <= at_first_rung[2]


def test_neighbours_that_stay_go_on_each_at_its_own_numbers() -> None:
    """Several of each program are left after both rungs, of a full batch too."""
    task, schedule = tasks.load("breast-cancer"), TrainingSchedule(45, "linear", num_evaluations=3)
    rates = [0.003 * 1.3**k for k in range(27)]
    for first, second in (("adam", "momentum"), ("gd", "gd")):
        contenders = [CONTENDERS[first]] * 14 + [CONTENDERS[second]] * 13
        trials = [Trial({"lr": rate}, k) for k, rate in enumerate(rates)]
        whole = as_workload(task).train(contenders, trials, schedule)
        rungs = Rungs("validation", {step: [] for step in rungs_of(schedule)})
        pruned = as_workload(task).train(contenders, trials, schedule, rungs=rungs)
        ended = [k for k, result in enumerate(pruned) if result.status == "ok"]
        assert len(ended) == 3
        for k in ended:
            assert pruned[k].test == pytest.approx(whole[k].test, rel=1e-3)


def steps_taken(comparison: thalweg.Comparison) -> dict[str, int]:
    """Optimizer steps of the searches of all studies, by contender."""
    steps: dict[str, int] = {}
    for summary in comparison.contenders:
        steps[summary.name] = sum(trial.result.evaluations[-1].step for trial in summary.trials["search"])
    return steps


def test_a_pruned_comparison_costs_no_more_and_tries_more(tmp_path: Path) -> None:
    names, budget = ["sgd", "adam"], "2x8trials"
    plain = compare(SHORT, names, budget=budget)
    pruned = compare(SHORT, names, budget=budget, prune=True, store=tmp_path)
    for summary in pruned.contenders:
        searched = summary.trials["search"]
        assert (
            len(searched)
            == 2 * pruning.num_draws_with_pruning(8, pruned.plan.schedules[summary.name])
            == 2 * pruned.plan.draws[summary.name]
        )
        statuses = [trial.result.status for trial in searched]
        assert statuses.count("pruned") >= 0.85 * len(searched)
        # The chosen setting is one that went to the end.
        (chosen,) = {(trial.study, trial.trial) for trial in summary.trials["race"]}
        assert next(trial for trial in searched if (trial.study, trial.trial) == chosen).result.status == "ok"
    for name, steps in steps_taken(pruned).items():
        assert 0.9 * steps_taken(plain)[name] <= steps <= 1.02 * steps_taken(plain)[name]
    assert pruned.verdict == compare(SHORT, names, budget=budget, prune=True, store=tmp_path).verdict
    page = pruned.report(tmp_path / "report.html").read_text()
    assert "Settings that were not among the best third of their study" in page
    assert not re.search(r"\b0 of \d+ settings diverged", page)


def test_pruned_and_refined_each_half_is_judged_within_the_quota() -> None:
    comparison = compare(SHORT, ["sgd", "adam"], budget="2x4trials", prune=True, refine=True)
    (sgd,) = (summary for summary in comparison.contenders if summary.name == "sgd")
    searched = [trial for trial in sgd.trials["search"] if trial.study == 0]
    assert [trial.trial for trial in searched] == list(range(comparison.plan.draws["sgd"]))
    assert len(comparison.plan.design.rounds(comparison.plan.draws["sgd"])[0]) == len(searched) - len(searched) // 2
    assert [trial.result.status for trial in searched].count("pruned") > len(searched) // 2
    assert list(searched[0].settings) == ["lr"]  # as many settings are open as the budget opens


def test_one_by_one_each_is_judged_by_those_before_and_resuming_changes_nothing(tmp_path: Path) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))  # its buffers change

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 4, generator=generator)
    data = (inputs, inputs.sum(1, keepdim=True))
    task = thalweg.Task(model=model, loss=thalweg.supervised(nn.functional.mse_loss), data=data, passes=3)
    names = ["adam", "sgd"]

    def stop_soon(progress: Any) -> None:
        if progress.stage == "search" and progress.done > 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(task, names, budget="2x4trials", prune=True, store=tmp_path, watch=stop_soon)
    resumed = compare(task, names, budget="2x4trials", prune=True, store=tmp_path)
    assert resumed.plan.execution_modes["adam"].members == 1
    whole = compare(task, names, budget="2x4trials", prune=True)
    statuses = [
        [
            trial.result.status
            for trial in comparison.trials()
            if (trial.contender, trial.stage, trial.study) == ("adam", "search", 1)
        ]
        for comparison in (resumed, whole)
    ]
    assert statuses[0] == statuses[1]
    assert statuses[0][0] == "ok"
    assert statuses[0].count("pruned") > len(statuses[0]) // 2
    assert resumed.verdict.text == whole.verdict.text


def test_a_training_function_is_left_from_within_report(tmp_path: Path) -> None:
    ended = tmp_path / "ended"  # a file, since trainings run in other processes

    def train(make_optimizer: Callable[..., torch.optim.Optimizer], report: Callable[..., None]) -> None:
        param = nn.Parameter(torch.tensor([3.0]))
        optimizer = make_optimizer([param])
        for _ in range(18):
            try:
                optimizer.zero_grad()
                param.square().sum().backward()
                optimizer.step()
                report(param.square().sum())
            except Exception:
                continue
        with ended.open("a") as file:
            file.write(".")

    comparison = compare(train, ["sgd", "adam"], budget="2x8trials", workers=1, prune=True)
    searched = comparison.contenders[0].trials["search"]
    assert {trial.result.evaluations[-1].step for trial in searched} == {2, 6, 18}
    assert 0 < len(ended.read_text()) < len(comparison.trials()) - len(searched) // 2
