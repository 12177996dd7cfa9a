"""Whole comparisons that tune numbers of the task, and begin with settings of the user."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from tests.comparison.loops import STEPS, X, compare, loss_of, make_model, own_task, take_step, trials
from thalweg.comparison.contenders.parsing import parse
from thalweg.errors import SettingError

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
