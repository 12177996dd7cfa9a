"""Whole comparisons of training loops as people write them: schedules, groups, several optimizers, own numbers."""

import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.results.functions.code_lines import lines_of_code
from thalweg.comparison.results.functions.unused_settings import find_unused
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.comparison.training.result import TrainingResult
from thalweg.errors import SettingError, TaskError

HERE = str(Path(__file__))
X = torch.linspace(-1, 1, 16).unsqueeze(1)
STEPS = 6


def loss_of(model: nn.Module) -> torch.Tensor:
    return (model(X) - 2 * X).square().mean()


def take_step(model: nn.Module, *optimizers: Any) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss_of(model).backward()
    for optimizer in optimizers:
        optimizer.step()


def compare(train: Any, contenders: Any = ("sgd", "momentum"), budget: str = "5trials", **options: Any) -> Any:
    return thalweg.compare(train, list(contenders), budget=budget, workers=1, **options)


def trials(comparison: Any, stage: str = "search") -> list[TrialRecord]:
    return comparison.store.trials(comparison.record.id, stage)


# --- loops that set their own learning rate -------------------------------------------------------------------------


def test_a_loop_that_sets_its_learning_rate_is_refused_with_the_line() -> None:
    def train(make_optimizer, report):  # as nanoGPT does
        model = nn.Linear(1, 1)
        optimizer = make_optimizer(model)
        for it in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = 0.03 * math.cos(it / STEPS)
            take_step(model, optimizer)
        report(loss_of(model))

    line = f"{HERE}:{inspect.getsourcelines(train)[1] + 5}"
    store = thalweg.comparison.Store(None)
    for _ in range(2):  # the same call refuses what is stored
        with pytest.raises(TaskError, match="train: the function must use the learning rate of the optimizer") as error:
            compare(train, budget="12trials", store=store)
        assert f"used the same ones: {line} sets it" in str(error.value)
        assert 'optimizer.defaults["lr"]' in str(error.value)


def test_one_cycle_with_a_peak_of_its_own_is_refused() -> None:
    def train(make_optimizer, report):
        model = nn.Linear(1, 1)
        optimizer = make_optimizer(model)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=STEPS + 1, cycle_momentum=False)
        for _ in range(STEPS):
            take_step(model, optimizer)
            scheduler.step()
        report(loss_of(model))

    with pytest.raises(TaskError, match="the function must use the learning rate of the optimizer that it gets"):
        compare(train, budget="12trials")


def test_factors_of_the_learning_rate_are_fine() -> None:
    def train(make_optimizer, report):
        model = nn.Linear(1, 1)
        optimizer = make_optimizer(model)
        warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 3))  # 0 at first
        for _ in range(STEPS):
            take_step(model, optimizer)
            warm_up.step()
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        report(loss_of(model))

    comparison = compare(train, budget="8trials")
    assert not any("does not use" in caution for caution in comparison.cautions)


def test_a_momentum_that_the_training_cycles_is_cautioned_with_the_line() -> None:
    def train(make_optimizer, report):
        model = nn.Linear(1, 1)
        optimizer = make_optimizer(model)
        peak = optimizer.defaults["lr"]
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=STEPS + 1)
        for _ in range(STEPS):
            take_step(model, optimizer)
            scheduler.step()
        report(loss_of(model))

    comparison = compare(train, ["momentum"], budget="12trials")
    line = f"{HERE}:{inspect.getsourcelines(train)[1] + 4}"
    (caution,) = [caution for caution in comparison.cautions if "does not use" in caution]
    assert caution.startswith("The training does not use momentum of momentum, which was searched from 0.")
    assert f"{line} sets it" in caution
    assert "cycle_momentum=False" in caution


def test_a_learning_rate_that_is_set_to_a_default_is_refused() -> None:
    """The default of Adam is tried, and then the loop changes nothing."""

    def train(make_optimizer, report):
        model = nn.Linear(1, 1)
        optimizer = make_optimizer(model)
        optimizer.param_groups[0]["lr"] = 1e-3
        for _ in range(STEPS):
            take_step(model, optimizer)
        report(loss_of(model))

    with pytest.raises(TaskError, match="the function must use the learning rate of the optimizer that it gets"):
        compare(train, ["adam"], budget="12trials")


def test_a_weight_decay_that_is_set_names_no_scheduler() -> None:
    def train(make_optimizer, report):
        model = nn.Linear(1, 1)
        optimizer = make_optimizer([{"params": model.parameters(), "weight_decay": 0.5}])
        for _ in range(STEPS):
            take_step(model, optimizer)
        report(loss_of(model))

    comparison = compare(train, ["adamw"], budget="30trials")
    (caution,) = [caution for caution in comparison.cautions if "does not use" in caution]
    line = f"{HERE}:{inspect.getsourcelines(train)[1] + 2}"
    assert caution.startswith("The training does not use weight_decay of adamw, which was searched from 0")
    assert caution.endswith(f", in the optimizer that {line} makes. Leave it to the optimizer, or fix it in --with.")


def test_a_contender_whose_settings_all_score_alike_is_cautioned() -> None:
    def train(make_optimizer, report):
        model = nn.Linear(1, 1)
        optimizer = make_optimizer(model)
        take_step(model, optimizer)
        report(1.5 if "momentum" in optimizer.param_groups[0] else loss_of(model))

    comparison = compare(train, ["sgd", "adam"], budget="8trials")
    count = len([each for each in trials(comparison) if each.contender == "sgd"])
    start = f"All {count} settings of sgd gave the same reported value, 1.5: those that were searched"
    assert f"{start} have no influence on it." in comparison.cautions
    assert not any("settings of adam" in caution for caution in comparison.cautions)


def trial(setting: str, value: float, changed: dict[str, list[float]] | None, contender: str = "adam") -> TrialRecord:
    name, _, own = setting.rpartition(".")
    use = OptimizerUse(name=name, line="f.py:1", changed={} if changed is None else {own: changed})
    return TrialRecord(contender, "search", 0, 0, 0, {setting: value}, TrainingResult("ok", optimizers=[use]))


@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize(
    ("setting", "values", "changed", "is_unused"),
    [
        ("lr", [0.01, 0.1, 1.0], lambda lr: {"step 1": [0.2], "report 1": [0.1]}, (True, True)),
        ("d.lr", [0.01, 0.1, 1.0], lambda lr: {"step 1": [0.2], "report 1": [0.1]}, (True, True)),
        ("lr", [0.01, 0.1, 1.0], lambda lr: {"step 1": [0.2], "report 1": [0.1 * lr]}, (False, False)),
        ("lr", [0.01, 0.1, 1.0], lambda lr: {"step 1": [0.2]}, (False, False)),  # a warm-up may be absolute
        ("lr", [0.01, 0.1, 1.0], lambda lr: {"step 1": [0.0], "report 1": [0.0]}, (False, False)),  # any lr times 0
        ("lr", [0.3, 0.5, 1.0], lambda lr: {"report 1": [0.2]}, (False, True)),  # a limit: min(lr, 0.2)
        ("lr", [0.01, 0.1], lambda lr: {"report 1": [0.05]}, (False, True)),  # few values
        ("lr", [0.1, 0.1, 0.1], lambda lr: {"report 1": [0.2]}, (False, False)),  # one value
        ("lr", [0.3 + k / 10 for k in range(6)], lambda lr: {"report 1": [0.2]}, (True, True)),
        ("lr", [0.01, 0.1, 1.0], lambda lr: {"report 1": [0.2]} if lr < 1 else None, (False, False)),
        # A trial at the value that the loop sets has changed nothing: that shows no use.
        ("lr", [0.01, 0.1, 1.0], lambda lr: None if lr == 0.1 else {"report 1": [0.1]}, (True, True)),
        ("lr", [0.01, 0.1, 1.0], lambda lr: None if lr == 0.1 else {"step 1": [0.2], "report 1": [0.1]}, (False,) * 2),
        ("lr", [0.01, 0.1, 1.0], lambda lr: None, (False, False)),
    ],
)
def test_a_setting_is_unused_if_trainings_that_differ_in_it_used_the_same(
    setting: str, values, changed, is_unused, certain: bool
) -> None:
    found = find_unused([trial(setting, value, changed(value)) for value in values], certain=certain)
    assert bool(found) == is_unused[not certain]
    if found:
        assert (found[0].setting, found[0].contenders) == (setting, ["adam"])
        assert found[0].where == ", in the optimizer that f.py:1 makes"
        assert (found[0].low, found[0].high, found[0].count) == (min(values), max(values), len(values))


def test_contenders_together_show_an_unused_setting_and_each_shows_its_own() -> None:
    fixed = {"report 1": [0.2]}
    shared = [trial("lr", lr, fixed, name) for name, lr in (("adam", 0.01), ("sgd", 0.1), ("sgd", 1.0))]
    (unused,) = find_unused(shared, certain=True)
    assert unused.contenders == ["adam", "sgd"]
    own = [trial("lr", lr, fixed) for lr in (0.01, 0.1, 1.0)] + [trial("lr", lr, None, "sgd") for lr in (0.01, 0.1)]
    (unused,) = find_unused(own, certain=True)
    assert unused.contenders == ["adam"]


# --- groups, schedules and the lines to paste -----------------------------------------------------------------------


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


# --- several optimizers ---------------------------------------------------------------------------------------------


def adversaries(make_optimizer, report):
    """Two models, each with an optimizer."""
    generator, discriminator = nn.Linear(1, 1), nn.Linear(1, 1)
    g, d = make_optimizer(generator, name="g"), make_optimizer(discriminator, name="d")
    for _ in range(STEPS):
        take_step(nn.Sequential(generator, discriminator), g, d)
    report(loss_of(nn.Sequential(generator, discriminator)))


def test_each_optimizer_of_a_training_is_tuned(tmp_path: Path) -> None:
    comparison = compare(adversaries, ["sgd", "adam"], budget="5trials", store=tmp_path / "store.sqlite")
    searched = trials(comparison)
    assert {"g.lr", "d.lr"} <= set(searched[0].settings)
    assert "lr" not in searched[0].settings
    assert any(each.settings["g.lr"] != each.settings["d.lr"] for each in searched)
    names = comparison.code.splitlines()
    assert [line.partition(" = ")[0] for line in names] == ["optimizer_g", "optimizer_d"]
    generator, discriminator = nn.Linear(1, 1), nn.Linear(1, 1)
    space: dict[str, Any] = {"thalweg": thalweg, "generator": generator, "discriminator": discriminator}
    exec(comparison.code, space)
    settings = next(each for each in comparison.contenders if each.name == comparison.verdict.recommended).settings
    for name, model in (("g", generator), ("d", discriminator)):
        group = space[f"optimizer_{name}"].param_groups[0]
        assert group["lr"] == settings[f"{name}.lr"]
        assert group["params"] == list(model.parameters())
    assert {"g.lr", "d.lr"} <= set(comparison.to_json()["contenders"][0]["settings"])


def two_nets(make_optimizer, report):
    """Two trainings in one, each with an optimizer of its own."""
    d, g = nn.Linear(1, 1), nn.Linear(1, 1)
    first, second = make_optimizer(d, name="d"), make_optimizer(g, name="g")
    for _ in range(STEPS):
        take_step(d, first)
        take_step(g, second)
    report(loss_of(d) + loss_of(g))


def test_each_optimizer_of_a_training_has_a_contender_of_its_own(tmp_path: Path) -> None:
    contenders = ["adam", {"d": "sgd", "g": "adam:beta1=0.5"}]
    name = "named(d=sgd,g=adam:beta1=0.5)"
    comparison = compare(two_nets, contenders, budget="10trials", store=tmp_path / "store.sqlite")
    mixed = next(summary for summary in comparison.contenders if summary.name == name)
    assert {"d.lr", "g.lr"} <= set(mixed.searched)
    assert "d.beta1" not in mixed.settings
    first, second = (line for line in mixed.line.splitlines() if line.startswith("optimizer"))
    assert first.startswith(f"optimizer_d = thalweg.optim.SGD(d.parameters(), lr={mixed.settings['d.lr']}")
    assert second.startswith("optimizer_g = thalweg.optim.Adam(g.parameters(), ")
    assert "betas=(0.5, " in second
    space: dict[str, Any] = {"thalweg": thalweg, "d": nn.Linear(1, 1), "g": nn.Linear(1, 1)}
    exec(mixed.line, space)
    assert space["optimizer_d"].param_groups[0]["lr"] == mixed.settings["d.lr"]
    again = compare(two_nets, ["adam", name], budget="10trials", store=tmp_path / "store.sqlite")
    assert again.to_json() == comparison.to_json()  # by its name, and from the store
    assert name in comparison.report(tmp_path / "report.html").read_text()


def test_a_closure_is_asked_for_only_of_the_optimizer_that_needs_it() -> None:
    def train(make_optimizer, report):
        d, g = nn.Linear(1, 1), nn.Linear(1, 1)
        first, second = make_optimizer(d, name="d"), make_optimizer(g, name="g")

        def closure() -> torch.Tensor:
            second.zero_grad()
            loss = loss_of(g)
            loss.backward()
            return loss

        take_step(d, first)
        second.step(closure)
        report(loss_of(d) + loss_of(g))

    (summary,) = compare(train, [{"d": "sgd", "g": "lbfgs"}], budget="3trials").contenders
    assert "optimizer_g = thalweg.optim.LBFGS(" in summary.line
    with pytest.raises(
        TaskError, match=r"the step must get a closure, .* got step\(\) without one .*test_loops.py:\d+"
    ):
        compare(train, [{"d": "lbfgs", "g": "sgd"}], budget="3trials")


def test_a_contender_for_each_name_needs_these_names() -> None:
    with pytest.raises(TaskError, match="must be called 'd' and 'x', got one that is called 'g'"):
        compare(two_nets, [{"d": "sgd", "x": "adam"}])
    with pytest.raises(TaskError, match="got one without a name"):
        compare(own_task(), [{"d": "sgd", "x": "adam"}])


def test_a_finished_comparison_of_several_optimizers_runs_nothing_again(tmp_path: Path) -> None:
    calls = []

    def train(make_optimizer, report):
        calls.append(1)
        adversaries(make_optimizer, report)

    first = compare(train, ["sgd"], budget="3trials", store=tmp_path / "store.sqlite")
    count = len(calls)
    again = compare(train, ["sgd"], budget="3trials", store=tmp_path / "store.sqlite")
    assert len(calls) == count
    assert again.to_json() == first.to_json()


# --- numbers of the task --------------------------------------------------------------------------------------------


def tuned(make_optimizer, report, size=thalweg.choice(4, 8, 16), clip=thalweg.log_range(0.01, 10.0)):
    """A training with numbers of its own."""
    model = nn.Linear(1, 1)
    optimizer = make_optimizer(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(X[:size]) - 2 * X[:size]).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    report(loss_of(model) + (size - 8) ** 2)


def test_numbers_of_a_training_function_are_tuned_by_each_contender(tmp_path: Path) -> None:
    comparison = compare(tuned, ["sgd", "adam"], budget="14trials", store=tmp_path / "store.sqlite")
    searched = trials(comparison)
    for name in ("sgd", "adam"):
        own = [each.settings for each in searched if each.contender == name]
        assert {type(settings["size"]) for settings in own} == {int}
    assert {each.settings["size"] for each in searched} == {4, 8, 16}
    assert len({each.settings["clip"] for each in searched}) > 2
    best = next(each for each in comparison.contenders if each.name == comparison.verdict.recommended)
    assert best.settings["size"] == 8
    assert {"size", "clip"} <= set(best.searched)
    got: list[dict[str, Any]] = []
    space = {
        "thalweg": thalweg,
        "model": nn.Linear(1, 1),
        "make_optimizer": None,
        "report": None,
        "tuned": lambda make_optimizer, report, **values: got.append(values),
    }
    exec(comparison.code, space)
    assert got == [{"size": 8, "clip": best.settings["clip"]}]
    stored = json.loads(json.dumps(comparison.to_json()))
    assert stored["contenders"][0]["settings"]["size"] == comparison.contenders[0].settings["size"]
    # A new session reads the same from the store.
    again = compare(tuned, ["sgd", "adam"], budget="14trials", store=tmp_path / "store.sqlite")
    assert again.to_json() == comparison.to_json()


def build(activation=thalweg.choice("relu", "tanh", "a\x1b[31m$b$"), bias=thalweg.choice(True, False)):
    """A model with choices that are no numbers. With tanh and without a bias it can be right."""
    torch.manual_seed(0)
    act = {"relu": nn.ReLU(), "tanh": nn.Tanh()}.get(activation, nn.Sigmoid())
    assert bias in (True, False), bias
    return nn.Sequential(nn.Linear(1, 4, bias=bias), act, nn.Linear(4, 1, bias=bias))


def test_choices_that_are_no_numbers_are_tuned_stored_shown_and_pasted(tmp_path: Path) -> None:
    inputs = torch.linspace(-1, 1, 60).unsqueeze(1)
    data = (inputs, torch.tanh(3 * inputs))
    task = thalweg.Task(model=build, loss=thalweg.supervised(nn.functional.mse_loss), data=data, passes=4)
    comparison = compare(task, ["sgd", "adam"], budget="14trials", store=tmp_path / "store.sqlite")
    searched = trials(comparison)
    assert len({each.settings["activation"] for each in searched}) == 3
    assert {each.settings["bias"] for each in searched} == {True, False}
    assert all(type(each.settings["bias"]) is bool for each in searched)
    again = compare(task, ["sgd", "adam"], budget="14trials", store=tmp_path / "store.sqlite")
    assert again.to_json() == comparison.to_json()
    chosen = comparison.contenders[0].settings
    stored = json.loads(json.dumps(comparison.to_json()))["contenders"][0]["settings"]
    assert (stored["activation"], stored["bias"]) == (chosen["activation"], chosen["bias"])
    space: dict[str, Any] = {"thalweg": thalweg, "torch": torch, "make_model": build, "build": build}
    exec(comparison.code, space)
    assert (space["model"][0].bias is not None) == chosen["bias"]
    for summary in comparison.contenders:
        assert {"activation", "bias"} <= set(summary.searched)
    escape = "\x1b[31m"
    assert escape not in repr(comparison)
    page = comparison.report(tmp_path / "report.html").read_text()
    assert escape not in page
    assert f"bias {chosen['bias']}" in page


def test_fixed_choices_and_a_setting_of_ones_own_may_be_texts() -> None:
    def train(make_optimizer, report, kind=thalweg.choice("a", "b", "c"), clip=thalweg.choice(None, 0.5)):
        model = nn.Linear(1, 1)
        take_step(model, make_optimizer(model))
        report({"a": 3.0, "b": 1.0, "c": 2.0}[kind] + (0.0 if clip is None else clip))

    tuned_freely = compare(train, ["sgd"], budget="10trials")
    assert (tuned_freely.contenders[0].settings["kind"], tuned_freely.contenders[0].settings["clip"]) == ("b", None)
    assert "train(make_optimizer, report, kind='b', clip=None)" in tuned_freely.code
    fixed = compare(train, ["sgd"], budget="3trials", fixed={"kind": "c"}, start=["sgd:clip=none"])
    assert fixed.contenders[0].settings["kind"] == "c"
    assert fixed.contenders[0].yours.mean == pytest.approx(2.0)
    with pytest.raises(SettingError, match="sgd: kind must be one of 'a', 'b', 'c', got 'd'"):
        compare(train, ["sgd"], budget="3trials", start=["sgd:kind=d"])


def test_a_number_at_the_end_of_its_range_is_cautioned() -> None:
    def train(make_optimizer, report, width=thalweg.choice(1, 2, 3, default=3)):
        model = nn.Linear(1, 1)
        take_step(model, make_optimizer(model))
        report(1.0 / width)

    cautions = compare(train, ["sgd"], budget="2trials").cautions
    assert (
        "sgd: the best width, 3, is at the upper end of its search range (3). A better value may lie above." in cautions
    )


def test_fixed_numbers_are_not_tuned_but_used_and_shown() -> None:
    comparison = compare(tuned, ["sgd"], budget="3trials", fixed={"size": 16.0})
    assert all("size" not in each.settings for each in trials(comparison))
    (summary,) = comparison.contenders
    assert summary.settings["size"] == 16
    assert "size" not in summary.searched
    assert summary.value.mean > (16 - 8) ** 2
    assert "tuned(make_optimizer, report, size=16, clip=" in comparison.code
    assert compare(tuned, ["sgd"], budget="3trials", fixed={"size": 8}).contenders[0].value.mean < 10


def test_a_number_with_the_name_of_a_setting_is_refused() -> None:
    def train(make_optimizer, report, weight_decay=thalweg.log_range(1e-5, 1e-2)): ...

    with pytest.raises(SettingError, match="train: a tuned number must not have the name of a setting .*weight_decay"):
        compare(train)


def make_model(width: int = thalweg.choice(2, 4)) -> nn.Module:
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))


def own_task(**parts: Any) -> thalweg.Task:
    inputs = torch.linspace(-1, 1, 40).unsqueeze(1)
    loss = thalweg.supervised(nn.functional.mse_loss)
    return thalweg.Task(model=make_model, loss=loss, data=(inputs, 2 * inputs), passes=2, **parts)


def test_numbers_of_a_task_are_tuned_in_populations_of_their_own() -> None:
    comparison = compare(own_task(batch_size=thalweg.choice(6, 12)), ["sgd", "adam"], budget="8trials")
    searched = trials(comparison)
    assert {each.settings["width"] for each in searched} == {2, 4}
    assert {each.settings["batch_size"] for each in searched} == {6, 12}
    best = next(each for each in comparison.contenders if each.name == comparison.verdict.recommended)
    space: dict[str, Any] = {"thalweg": thalweg, "torch": torch, "make_model": make_model}
    exec(comparison.code, space)
    assert space["model"][0].out_features == best.settings["width"]
    assert space["batch_size"] == best.settings["batch_size"]
    assert space["optimizer"].param_groups[0]["lr"] == best.settings["lr"]
    # 24 training examples: the schedule ends with the last of two passes at this batch size.
    assert space["scheduler"].total_iters == 2 * (24 // best.settings["batch_size"])


def test_a_population_trains_members_at_their_own_numbers() -> None:
    from thalweg.comparison.comparison import entrants_of
    from thalweg.comparison.contenders.parsing import parse
    from thalweg.comparison.training.runs import Trial
    from thalweg.comparison.training.workload import as_workload

    workload = as_workload(own_task(batch_size=thalweg.choice(6, 12)))
    contenders = entrants_of(workload, [parse("sgd")])
    schedule = workload.training_schedule(contenders[0], "linear")
    settings = [{"lr": 0.1, "width": width, "batch_size": size} for width in (2, 4) for size in (12, 6)]
    mixed = workload.train(contenders[0], [Trial(each, seed) for each in settings for seed in (0, 1)], schedule)
    for number, each in enumerate(settings):
        task = own_task()
        for seed in (0, 1):
            torch.manual_seed(seed)
            plain = thalweg.Task(
                model=lambda width=each["width"]: make_model(width),
                loss=task.loss,
                data=task.data,
                passes=2,
                batch_size=each["batch_size"],
            )
            alone = as_workload(plain)
            own_schedule = alone.training_schedule(contenders[0], "linear")
            (expected,) = alone.train(parse("sgd"), [Trial({"lr": 0.1}, seed)], own_schedule)
            got = mixed[2 * number + seed]
            assert got.test == pytest.approx(expected.test, rel=1e-4)
            assert got.evaluations[-1].step == schedule.steps  # in batches of the default size


# --- settings of the user -------------------------------------------------------------------------------------------


def test_a_setting_of_the_user_is_tried_first_and_shown() -> None:
    comparison = compare(tuned, ["sgd", "adam"], budget="4trials", start=["adam:lr=0.123,size=8"])
    first = trials(comparison)
    mine = [each for each in first if each.settings["lr"] == 0.123]
    assert mine[0].contender == "adam"
    assert mine[0].settings["size"] == 8
    yours = {each.name: each.yours for each in comparison.contenders}
    assert yours["sgd"] is None
    measured = [
        each.result.test for each in comparison.store.trials(comparison.record.id) if each.trial == mine[0].trial
    ]
    assert min(measured) <= yours["adam"].mean <= max(measured)
    stored = {each["name"]: each["yours"] for each in comparison.to_json()["contenders"]}
    assert stored["adam"] == pytest.approx(yours["adam"].mean)


def test_a_setting_of_the_user_makes_another_comparison(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    first = compare(tuned, ["sgd"], budget="2trials", store=store)
    second = compare(tuned, ["sgd"], budget="2trials", store=store, start=["sgd:lr=0.2"])
    assert first.record.key != second.record.key
