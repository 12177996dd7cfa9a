"""Whole comparisons of training loops with groups and schedules, and the lines to paste."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from tests.comparison.loops import STEPS, compare, loss_of, take_step, trials
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.results.functions.code_lines import lines_of_code
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.errors import SettingError, TaskError

HERE = str(Path(__file__))


def test_groups_keep_their_ratio_and_the_line_to_paste_holds_them() -> None:
    body, head = nn.Linear(1, 1), nn.Linear(1, 1)

    def train(make_optimizer, report):
        model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        body, head = model
        optimizer, scheduler = make_optimizer(
            [{"params": body.parameters(), "lr": 1e-3}, {"params": head.parameters(), "lr": 1e-2, "weight_decay": 0}],
            scheduler=True,
            steps=STEPS,
        )
        for _ in range(STEPS):
            take_step(model, optimizer)
            scheduler.step()
        report(loss_of(model))

    comparison = compare(train, schedule="cosine")
    space: dict[str, Any] = {"thalweg": thalweg, "torch": torch, "body": body, "head": head}
    exec(comparison.code, space)
    recommended = next(each for each in comparison.contenders if each.name == comparison.verdict.recommended)
    lr = recommended.settings["lr"]
    groups = space["optimizer"].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([lr, 10 * lr], rel=1e-11)
    assert groups[1]["weight_decay"] == 0
    assert groups[0]["params"] == list(body.parameters())
    assert isinstance(space["scheduler"], torch.optim.lr_scheduler.CosineAnnealingLR)
    assert space["scheduler"].T_max == STEPS


def test_groups_from_a_function_are_pasted_as_its_call() -> None:
    def make_groups(model):
        return [{"params": [model.weight], "lr_scale": 0.5}, {"params": [model.bias]}]

    def train(make_optimizer, report):
        model = nn.Linear(1, 1)
        take_step(model, make_optimizer(make_groups(model)))
        report(loss_of(model))

    comparison = compare(train, ["sgd"], budget="2trials")
    model = nn.Linear(1, 1)
    space: dict[str, Any] = {"thalweg": thalweg, "make_groups": make_groups, "model": model}
    exec(comparison.code, space)
    lr = comparison.contenders[0].settings["lr"]
    assert [group["lr"] for group in space["optimizer"].param_groups] == pytest.approx([lr / 2, lr], rel=1e-11)


def test_groups_of_a_routed_contender_are_in_the_line_to_paste() -> None:
    def train(make_optimizer, report):
        net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 1))
        body, head = net[:3], net[3]
        optimizer = make_optimizer(
            [
                {"params": body.parameters(), "lr_scale": 0.5},
                {"params": head.parameters(), "weight_decay": 0.25},
            ],
            model=net,
        )
        take_step(net, optimizer)
        report(loss_of(net))

    comparison = compare(train, ["muon+adamw"], budget="3trials")
    lr = comparison.contenders[0].settings["lr"]
    net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 1))
    space: dict[str, Any] = {"thalweg": thalweg, "net": net, "body": net[:3], "head": net[3]}
    exec(comparison.code, space)
    groups = space["optimizer"].param_groups
    assert {(group["rule"], group["lr"]) for group in groups} == {
        ("muon", float(f"{lr / 2:.12g}")),
        ("adamw", float(f"{lr / 2:.12g}")),
        ("adamw", lr),
    }
    assert [group["weight_decay"] for group in groups][-1] == 0.25
    # Without the text of the call the line still shows where the groups go.
    use = OptimizerUse(takes_model=False, lr_scales=[1.0, 0.5])
    record = parse("muon+adamw").describe()
    (line,) = lines_of_code(record, {"lr": 0.2}, [use])
    assert "route(model, 'muon+adamw', lr=0.2" in line
    assert line.endswith(".optimizer([{'params': params_1, 'lr': 0.2}, {'params': params_2, 'lr': 0.1}])")


def test_groups_without_their_model_are_refused_before_any_training() -> None:
    calls = []

    def train(make_optimizer, report):
        net = nn.Linear(1, 1)
        optimizer = make_optimizer([{"params": net.parameters()}])
        take_step(net, optimizer)
        calls.append("stepped")
        report(loss_of(net))

    line = inspect.getsourcelines(train)[1] + 2
    message = (
        rf"train: muon\+adamw: it must get the model, .*make_optimizer\(groups, model=model\)\. \(at {HERE}:{line}\)"
    )
    with pytest.raises(SettingError, match=message):
        compare(train, ["adam", "muon+adamw"])
    assert calls == []


def test_a_loop_is_run_once_to_see_whether_a_contender_can_route() -> None:
    made = []

    def train(make_optimizer, report):
        net = nn.Linear(1, 1)
        made.append(net)
        take_step(net, make_optimizer(net))
        report(loss_of(net))

    assert len(trials(compare(train, ["muon+adamw"], budget="1trials"))) == 1
    assert len(made) == 1  # trainings themselves run in a worker
    compare(train, ["adam"], budget="1trials")
    assert len(made) == 1


def test_a_schedule_that_a_training_function_does_not_take_is_refused() -> None:
    def train(make_optimizer, report):
        model = nn.Linear(1, 1)
        take_step(model, make_optimizer(model))
        report(loss_of(model))

    message = r"with the schedule 'cosine' the function must take its schedule from thalweg, and does not \(.*:\d+\)"
    with pytest.raises(TaskError, match=message):
        compare(train, schedule="cosine")
    with pytest.raises(TaskError, match=message):
        compare(train, ["sgd:schedule=cosine"])
    assert compare(train, ["sgd"], budget="2trials", schedule="none").verdict.recommended == "sgd"


def test_a_contender_without_a_schedule_takes_part_in_a_training_function() -> None:
    def train(make_optimizer, report):
        model = nn.Linear(1, 1)
        optimizer, scheduler = make_optimizer(model, scheduler=True, steps=2)
        take_step(model, optimizer)
        scheduler.step()
        report(optimizer.param_groups[0]["lr"] / optimizer.defaults["lr"])

    comparison = compare(train, ["schedule_free_sgd", "sgd"], budget="2trials")
    values = {each.contender: each.result.validation for each in trials(comparison)}
    assert values == {"schedule_free_sgd": 1.0, "sgd": 0.5}
