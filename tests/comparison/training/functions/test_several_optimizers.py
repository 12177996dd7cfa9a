"""Whole comparisons of training loops with several optimizers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from tests.comparison.loops import STEPS, compare, loss_of, own_task, take_step, trials
from thalweg.errors import TaskError


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
    with pytest.raises(TaskError, match=r"the step must get a closure, .* got step\(\) without one .*loops.py:\d+"):
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
