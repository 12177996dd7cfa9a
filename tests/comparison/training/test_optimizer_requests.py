"""make_optimizer: groups, names, schedules, and what is learnt of the settings that a training uses."""

import inspect
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison.contenders.parsing import parse, with_user_settings
from thalweg.comparison.planning.adaptive.search_space import search_space_of
from thalweg.comparison.training.functions.optimizer_names import names_of_optimizers
from thalweg.comparison.training.functions.optimizer_requests import OptimizerRequests, next_observation
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.trainer import run_function
from thalweg.errors import KeywordError, RoutingError, SettingError, TaskError, UnknownNameError
from thalweg.tasks import TrainingFunction, load
from thalweg.tasks.tuning.tunable import tunables_of

HERE = str(Path(__file__))


def param(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value]))


def requests(settings=None, contender="adam", schedule="constant", names=("",)) -> OptimizerRequests:
    return OptimizerRequests("mine", parse(contender).for_optimizers(names), settings or {"lr": 0.5}, schedule=schedule)


def step(optimizer) -> None:
    for group in optimizer.param_groups:
        for each in group["params"]:
            each.grad = torch.ones_like(each)
    optimizer.step()


def lrs(optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


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


# --- names ----------------------------------------------------------------------------------------------------------


def test_each_name_has_settings_of_its_own() -> None:
    make = requests({"d.lr": 0.1, "g.lr": 0.2, "d.beta1": 0.5}, names=("d", "g"))
    d, g = make([param()], name="d"), make([param()], name="g")
    assert (lrs(d), lrs(g)) == ([0.1], [0.2])
    assert (d.param_groups[0]["betas"], g.param_groups[0]["betas"]) == ((0.5, 0.999), (0.9, 0.999))


def test_a_setting_without_a_name_is_for_all_that_have_none_of_their_own() -> None:
    make = requests({"lr": 0.3, "d.lr": 0.1}, names=("d", "g"))
    assert (lrs(make([param()], name="d")), lrs(make([param()], name="g"))) == ([0.1], [0.3])


def test_settings_share_a_column_of_the_search_by_what_they_are() -> None:
    size = tunables_of(lambda size=thalweg.choice(1, 2): size)
    plain, named = (replace(parse(name), task_settings=size) for name in ("momentum", "adam"))
    space = search_space_of(plain)
    assert [space.column(name) for name in ("lr", "momentum", "size")] == ["lr", "first momentum", "size"]
    space = search_space_of(named.for_optimizers(("d", "")))
    assert [space.column(name) for name in ("d.lr", "d.beta1", "lr", "beta2", "size")] == [
        "d.lr",
        "d.first momentum",
        "lr",
        "beta2",
        "size",
    ]
    assert space.rates == ["d.lr", "lr"]


def test_a_contender_searches_the_settings_of_each_name() -> None:
    contender = parse("adam:lr=1e-4..1e-2,beta2=0.95").for_optimizers(("d", "g"))
    assert list(contender.space(2)) == ["d.lr", "d.beta1", "g.lr", "g.beta1"]
    assert contender.space(1)["g.lr"].high == 1e-2
    assert parse("adam").for_optimizers(("d", "")).recommended == {
        "d.lr": 0.01,
        "d.beta1": 0.973,
        "lr": 0.01,
        "beta1": 0.973,
    }
    assert contender.order_of("d.lr") == 1
    assert contender.order_of("g.beta1") == 2


def test_a_name_must_be_a_word_and_known() -> None:
    with pytest.raises(SettingError, match="name must be a word, such as 'd', got 'a b'"):
        requests()([param()], name="a b")
    with pytest.raises(TaskError, match="the name of an optimizer must be known before the first step, got 'late'"):
        requests()([param()], name="late")


def names_of(train) -> tuple[str, ...]:
    return names_of_optimizers(TrainingFunction(train=train), parse("adam"), 0)


def test_names_are_found_by_a_run_up_to_the_first_step() -> None:
    calls = []

    def named(make_optimizer, report):
        first, second = make_optimizer([param()], name="d"), make_optimizer([param()], name="g")
        report(3.0)
        try:
            step(first)
        except Exception:
            calls.append("caught")
        step(second)
        calls.append("stepped")

    def build(make):
        return make([param()], name="inner")

    def helper(make_optimizer, report):
        step(build(make_optimizer))

    assert names_of(named) == ("d", "g")
    assert names_of(helper) == ("inner",)
    assert calls == []


def test_a_function_whose_text_shows_no_names_is_not_run() -> None:
    def plain(make_optimizer, report):
        raise AssertionError

    def mixed(make_optimizer, report):
        make_optimizer([param()])
        step(make_optimizer([param()], name="d"))

    assert names_of(plain) == ("",)
    assert names_of(mixed) == ("", "d")


def test_a_name_in_the_text_may_be_made_after_the_first_step() -> None:
    def late(make_optimizer, report):
        step(make_optimizer([param()], name="actor"))
        step(make_optimizer([param()], name="critic"))

    def computed(make_optimizer, report):
        step(make_optimizer([param()], name="d"))
        for name in ("e", "f"):
            step(make_optimizer([param()], name=name))

    assert names_of(late) == ("actor", "critic")
    assert names_of(computed) == ("d",)


def test_names_of_other_functions_in_the_file_are_not_those_of_this_one(tmp_path: Path) -> None:
    file = tmp_path / "several.py"
    file.write_text(
        "import torch\n"
        "def param():\n    return torch.nn.Parameter(torch.ones(1))\n"
        "def gan(make_optimizer, report):\n    make_optimizer([param()], name='g')\n"
        "def step(optimizer):\n    optimizer.step()\n"
        "def late(make_optimizer):\n    return make_optimizer([param()], name='late')\n"
        "def loop(make_optimizer):\n    step(make_optimizer([param()]))\n    late(make_optimizer)\n"
        "def plain(make_optimizer, report):\n    step(make_optimizer([param()]))\n    report(1.0)\n"
        "def helped(make_optimizer, report):\n    loop(make_optimizer)\n    report(1.0)\n"
    )
    names = {name: names_of_optimizers(load(f"{file}:{name}"), parse("adam"), 0) for name in ("gan", "plain", "helped")}
    assert names == {"gan": ("g",), "plain": ("",), "helped": ("", "late")}


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


# --- what is learnt -------------------------------------------------------------------------------------------------


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


# --- settings of the user -------------------------------------------------------------------------------------------


def test_settings_to_start_from_belong_to_the_contender_they_name() -> None:
    contenders = with_user_settings(
        [parse("adam"), parse("adam:beta2=0.95"), parse("sgd")],
        ["adam:lr=3e-4,beta1=0.8", "adam:beta2=0.95,lr=1e-3", "adam:lr=1e-2"],
    )
    assert [each.user_settings for each in contenders] == [
        ({"lr": 3e-4, "beta1": 0.8}, {"lr": 1e-2}),
        ({"lr": 1e-3},),
        (),
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("adan:lr=1e-3", UnknownNameError, "must begin with the name of a contender, got 'adan:lr=1e-3'. Did you mean"),
        ("adam", SettingError, "must have a value, got 'adam'. Write adam:lr=0.001, say."),
        ("adam:lrr=1e-3", KeywordError, "lrr"),
        ("adam:lr=fast", SettingError, "lr must be a number"),
        ("adam:lr=0", SettingError, "lr is searched in its logarithm, so it must be > 0, got 0"),
        ("adam:beta1=2", SettingError, "beta1 must be in"),
        ("adam:lr", SettingError, "a setting must read name=value, got 'lr'"),
        ("sgd:momentum=0.9", SettingError, "momentum is fixed, so no search can start from 0.9"),
    ],
)
def test_wrong_settings_to_start_from_are_refused(text: str, error, message: str) -> None:
    with pytest.raises(error, match=message):
        with_user_settings([parse("adam"), parse("sgd")], [text])


def test_a_setting_to_start_from_may_name_the_class() -> None:
    (contender,) = with_user_settings([parse("adamw")], ["AdamW:lr=3e-4"])
    assert contender.user_settings == ({"lr": 3e-4},)


def test_a_number_that_is_fixed_starts_no_search() -> None:
    fixed = {"width": tunables_of(lambda width=thalweg.choice(4, 8): width)["width"].fixed_at(4)}
    with pytest.raises(SettingError, match="adam: width is fixed at 4, so no search can start from 8"):
        with_user_settings([replace(parse("adam"), task_settings=fixed)], ["adam:width=8"])


def test_settings_of_a_name_must_have_this_optimizer() -> None:
    (contender,) = with_user_settings([parse("adam")], ["adam:d.lr=0.1"])
    assert contender.for_optimizers(("d", "g")).user_settings == ({"d.lr": 0.1},)
    with pytest.raises(KeywordError, match=r"adam: the settings are lr, .*got 'd.lr'"):
        contender.for_optimizers(("",))


def test_the_exports_of_tuned_numbers() -> None:
    assert {"choice", "log_range", "range"} <= set(thalweg.__all__)
