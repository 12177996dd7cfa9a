"""Whole comparisons of training loops that set a learning rate or a momentum of their own."""

import inspect
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from tests.comparison.loops import STEPS, compare, loss_of, take_step, trials
from thalweg.comparison.results.functions.unused_settings import find_unused
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.comparison.training.result import TrainingResult
from thalweg.errors import TaskError

HERE = str(Path(__file__))


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
