"""Optimizers with names: their settings, and how the names of a training are found."""

from dataclasses import replace
from pathlib import Path

import pytest

import thalweg
from tests.comparison.training.functions.requests import lrs, param, requests, step
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.adaptive.search_space import search_space_of
from thalweg.comparison.training.functions.optimizer_names import names_of_optimizers
from thalweg.errors import SettingError, TaskError
from thalweg.tasks import TrainingFunction, load
from thalweg.tasks.tuning.tunable import tunables_of


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
