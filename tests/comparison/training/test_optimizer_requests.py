"""make_optimizer: groups, routed groups and schedules."""

import inspect
import math
from pathlib import Path

import pytest
from torch import nn

from tests.comparison.training.functions.requests import lrs, param, requests, step
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.training.functions.optimizer_names import names_of_optimizers
from thalweg.errors import RoutingError, SettingError, TaskError
from thalweg.tasks import TrainingFunction

HERE = str(Path(__file__))


# --- groups ---------------------------------------------------------------------------------------------------------


def test_groups_without_an_lr_get_that_of_the_trial_and_keep_their_own_settings() -> None:
    optimizer = requests()([{"params": [param()]}, {"params": [param()], "weight_decay": 0.25}])
    assert lrs(optimizer) == [0.5, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.25]


@pytest.mark.parametrize(
    ("own", "reference", "expected"),
    [
        ([{"lr": 1e-3}, {"lr": 1e-2}], None, [0.5, 5.0]),  # ratios to the first group
        ([{"lr_scale": 0.1}, {}], None, [0.05, 0.5]),
        ([{"lr": 1e-4}, {}], 1e-3, [0.05, 0.5]),  # ratios to a given learning rate
        ([{"lr": 2e-3}, {"lr_scale": 3}, {"lr": 1e-3}], None, [0.5, 1.5, 0.25]),
        ([{"lr": 1e-3}, {"lr": 0}], None, [0.5, 0.0]),
    ],
)
def test_the_lr_of_a_group_is_a_ratio(own, reference, expected) -> None:
    groups = [{"params": [param()], **each} for each in own]
    optimizer = requests()(groups, lr=reference)
    assert lrs(optimizer) == pytest.approx(expected, rel=1e-12)
    assert optimizer.defaults["lr"] == 0.5
    assert [set(group) for group in groups] == [{"params", *each} for each in own]  # the user's stay as they were
    assert all("lr_scale" not in group for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("own", "reference", "message"),
    [
        ([{"lr": 1e-3}, {}], None, r"group 1 has lr=0.001 and group 2 has none. .*make_optimizer\(groups, lr=1e-3\)"),
        ([{}, {"lr": 1e-3}], None, "group 2 has lr=0.001 and group 1 has none"),
        ([{"lr": 0.0}, {"lr": 1e-3}], None, "group 1 has lr=0.0 and group 1 has 0.0"),
        ([{"lr_scale": 0.1}, {"lr": 1e-3}], None, "group 2 has lr=0.001 and group 1 has 'an lr_scale'"),
        ([{"lr": 1e-3, "lr_scale": 0.1}], None, "group 1 must have lr or lr_scale, got both"),
        ([{"lr_scale": -1}], None, "lr_scale of group 1 must be a number >= 0, got -1"),
        ([{}], 1e-3, r"lr must come with groups of parameters that have an lr of their own, got 0.001"),
        ([{"lr": 1.0}], 0.0, "lr must be > 0"),
    ],
)
def test_an_unknown_ratio_is_refused_at_the_line(own, reference, message: str) -> None:
    line = inspect.currentframe().f_lineno + 2
    with pytest.raises(SettingError, match=message) as error:
        requests()([{"params": [param()], **each} for each in own], lr=reference)
    assert f"mine: make_optimizer ({HERE}:{line})" in str(error.value)


def test_parameters_and_models_are_still_enough() -> None:
    model = nn.Linear(2, 1)
    model.bias.requires_grad = False
    for given, count in ((model, 1), (model.parameters(), 2), ([param()], 1), (iter([param()]), 1)):
        assert len(requests()(given).param_groups[0]["params"]) == count


# --- groups of a contender that routes ------------------------------------------------------------------------------


def routed_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 2))


def test_groups_of_a_model_are_routed_and_keep_their_settings() -> None:
    model = routed_model()
    body, head = [*model[0].parameters(), *model[1].parameters(), *model[2].parameters()], list(model[3].parameters())
    groups = [{"params": body, "lr_scale": 0.5, "label": "body"}, {"params": head, "weight_decay": 0.3}]
    optimizer = requests({"lr": 0.2, "weight_decay": 0.1}, "muon+adamw")(groups, model=model)
    found = {
        id(param): (group["rule"], group["lr"], group["weight_decay"], group.get("label"))
        for group in optimizer.param_groups
        for param in group["params"]
    }
    first, norm, hidden, last = model
    assert found[id(first.weight)] == found[id(hidden.weight)] == ("muon", 0.1, 0.1, "body")
    # By its role a bias has no weight decay, unless its group says so.
    assert found[id(first.bias)] == found[id(norm.weight)] == ("adamw", 0.1, 0.0, "body")
    assert found[id(last.weight)] == found[id(last.bias)] == ("adamw", 0.2, 0.3, None)
    assert len(found) == len(list(model.parameters()))
    assert {name for group in optimizer.param_groups for name in group["param_names"]} == dict(
        model.named_parameters()
    ).keys()
    step(optimizer)


def test_parameters_and_parts_of_a_model_are_routed_with_it() -> None:
    model = routed_model()
    for params in (list(model[2].parameters()), model[2].named_parameters(), model[2]):
        optimizer = requests({"lr": 0.2}, "muon+adamw")(params, model=model)
        assert {group["rule"]: len(group["params"]) for group in optimizer.param_groups} == {"muon": 1, "adamw": 1}
    whole = requests({"lr": 0.2}, "muon+adamw")(model=model)
    assert sum(len(group["params"]) for group in whole.param_groups) == 8
    # A contender that does not route needs no model, and may get it.
    assert lrs(requests({"lr": 0.5})(model[2], model=model)) == [0.5]


def test_the_ratio_of_two_rules_holds_in_a_group_with_a_rate_of_its_own() -> None:
    model = routed_model()
    optimizer = requests({"lr": 0.4}, "shampoo+adamw")(
        [{"params": list(model.parameters()), "lr_scale": 0.5}], model=model
    )
    rates = {group["rule"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"shampoo": 0.2, "adamw": 0.002})  # their defaults are 0.1 and 0.001


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, SettingError, r"must get the model, .* got groups of parameters. .*make_optimizer\(groups, model=model\)"),
        ({"model": "model"}, SettingError, "got model=str"),
        (
            {"model": nn.Linear(1, 1)},
            RoutingError,
            r"parameters of group 1 must be the model's, got one of shape \(6, 4\)",
        ),
    ],
)
def test_groups_that_cannot_be_routed_say_the_cure(arguments, error, message: str) -> None:
    with pytest.raises(error, match=message):
        requests({"lr": 0.2}, "muon+adamw")([{"params": routed_model().parameters()}], **arguments)


def test_an_optimizer_of_nothing_is_refused() -> None:
    with pytest.raises(SettingError, match="it must get the model, its parameters or groups of them, got no argument"):
        requests()()


# --- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)] + [0.0, 0.0]),
        ("constant", [0.5] * 6),
    ],
)
def test_a_scheduler_follows_the_schedule_of_the_comparison(schedule: str, expected: list[float]) -> None:
    optimizer, scheduler = requests(schedule=schedule)([param()], scheduler=True, steps=4)
    seen = []
    for _ in expected:
        seen += lrs(optimizer)
        step(optimizer)
        scheduler.step()
    assert seen == pytest.approx(expected, abs=1e-12)


def test_a_scheduler_needs_its_steps() -> None:
    for wrong in ({"scheduler": True}, {"steps": 3}, {"scheduler": True, "steps": 0}):
        with pytest.raises(SettingError, match=r"optimizer, scheduler = make_optimizer\(model, scheduler=True, steps="):
            requests()([param()], **wrong)


def test_a_scheduler_that_is_never_stepped_is_an_error() -> None:
    make = requests()
    make([param()], scheduler=True, steps=3)
    with pytest.raises(TaskError, match=r"mine: scheduler\.step\(\) must be called after each step"):
        make.finish()


def test_a_schedule_that_the_user_chose_must_be_taken() -> None:
    def own(make_optimizer, report):
        step(make_optimizer([param()]))

    def taken(make_optimizer, report):
        optimizer, _ = make_optimizer([param()], scheduler=True, steps=3)
        step(optimizer)

    with pytest.raises(TaskError, match=r"with the schedule 'cosine' the function must take its schedule from thalweg"):
        names_of_optimizers(TrainingFunction(train=own), parse("adam"), 0, schedule="cosine")
    assert names_of_optimizers(TrainingFunction(train=taken), parse("adam"), 0, schedule="cosine") == ("",)
