"""Settings that a training changes: their values, and the line that changes them."""

import inspect
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.comparison.training.functions.requests import param, step
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.functions.optimizer_requests import next_observation
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.trainer import run_function
from thalweg.tasks import TrainingFunction

HERE = str(Path(__file__))


def use_of(train, settings=None, contender="adam"):
    result = run_function(TrainingFunction(train=train), parse(contender), Trial(settings or {"lr": 0.5}, 0))
    return result.optimizers


def test_a_training_that_leaves_its_settings_alone_has_changed_nothing() -> None:
    def train(make_optimizer, report):
        weight = param()
        optimizer = make_optimizer([weight])
        step(optimizer)
        report(weight.item())

    (use,) = use_of(train)
    assert (use.changed, use.changed_at) == ({}, {})
    assert use.argument == "[weight]"
    assert use.line == f"{HERE}:{inspect.getsourcelines(train)[1] + 2}"
    assert not use.takes_model


def test_changes_are_read_at_steps_and_reports_with_the_line() -> None:
    def train(make_optimizer, report):
        optimizer = make_optimizer(nn.Linear(1, 1))
        for k in range(1, 10):
            for group in optimizer.param_groups:
                group["lr"] = k
            step(optimizer)
            report(k)

    (use,) = use_of(train)
    assert use.changed == {
        "lr": {
            "step 1": [1],
            "step 2": [2],
            "step 3": [3],
            "step 4": [4],
            "step 6": [6],
            "step 8": [8],
            "report 1": [1],
            "report 2": [2],
            "report 4": [4],
            "report 8": [8],
            "end": [9],
        }
    }
    assert use.changed_at == {"lr": f"{HERE}:{inspect.getsourcelines(train)[1] + 4}"}
    assert use.takes_model


@pytest.mark.parametrize("way", ["update", "|=", "[]"])
def test_the_line_is_known_however_a_group_is_changed(way: str) -> None:
    def train(make_optimizer, report):
        optimizer = make_optimizer([param()])
        (group,) = optimizer.param_groups
        if way == "update":
            group.update(lr=0.25)
        elif way == "|=":
            group |= {"lr": 0.25}
        else:
            group["lr"] = 0.25
        step(optimizer)
        report(1.0)

    (use,) = use_of(train)
    offset = {"update": 4, "|=": 6, "[]": 8}[way]
    assert use.changed_at == {"lr": f"{HERE}:{inspect.getsourcelines(train)[1] + offset}"}
    assert use.changed["lr"]["end"] == [0.25]


def test_steps_are_read_more_and_more_rarely_up_to_the_end() -> None:
    steps = [1]
    while steps[-1] < 1_000_000:
        steps.append(next_observation(steps[-1]))
    assert steps[:12] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert len(steps) <= 41
    assert all(later <= 1.5 * step for step, later in pairwise(steps[3:]))


def test_the_last_line_that_changes_a_setting_is_known() -> None:
    def train(make_optimizer, report):
        optimizer = make_optimizer([param()])
        (group,) = optimizer.param_groups
        for number in range(1, 11):
            if number < 5:
                group["lr"] *= 0.9
            else:
                group["lr"] = 0.25
            step(optimizer)
        report(1.0)

    (use,) = use_of(train)
    first = inspect.getsourcelines(train)[1]
    assert (use.changed_at, use.last_changed_at) == ({"lr": f"{HERE}:{first + 5}"}, {"lr": f"{HERE}:{first + 7}"})
    assert use.steps == 10


def test_a_scheduler_of_torch_is_named_by_the_line_that_makes_it() -> None:
    def train(make_optimizer, report):
        optimizer = make_optimizer([param()])
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)
        step(optimizer)
        scheduler.step()
        report(1.0)

    (use,) = use_of(train)
    assert set(use.changed) == {"lr", "beta1"}
    first = inspect.getsourcelines(train)[1]
    assert set(use.changed_at.values()) <= {f"{HERE}:{first + 2}", f"{HERE}:{first + 3}"}


def test_a_setting_that_each_group_has_of_its_own_counts_as_changed() -> None:
    def train(make_optimizer, report):
        step(make_optimizer([{"params": [param()], "weight_decay": 0.25}]))
        report(1.0)

    (use,) = use_of(train, {"lr": 0.5, "weight_decay": 0.1})
    assert use.changed["weight_decay"]["end"] == [0.25]


def test_an_optimizer_that_shares_its_groups_with_another_keeps_them() -> None:
    def train(make_optimizer, report):
        weight = param(3.0)
        optimizer = make_optimizer([weight])
        groups = optimizer.param_groups
        optimizer.param_groups[0]["lr"] = 0.25
        step(optimizer)
        assert groups is optimizer.param_groups
        report(weight.item())

    (use,) = use_of(train, contender="torch.optim:SGD")
    assert use.changed["lr"]["step 1"] == [0.25]


def test_a_pruned_training_says_what_it_used() -> None:
    from thalweg.comparison.training.pruning import Rungs

    def train(make_optimizer, report):
        optimizer = make_optimizer([param()])
        optimizer.param_groups[0]["lr"] = 0.25
        for _ in range(3):
            step(optimizer)
            report(1.0)

    function, rungs = TrainingFunction(train=train), Rungs("validation", {2: [0.1, 0.1, 0.1]})
    result = run_function(function, parse("adam"), Trial({"lr": 0.5}, 0), rungs)
    assert result.status == "pruned"
    assert list(result.optimizers[0].changed["lr"]) == ["step 1", "report 1", "step 2", "report 2"]
