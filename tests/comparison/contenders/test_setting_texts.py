"""Settings as texts: ranges of whole numbers for every rule and wrapper, at every depth, to the line to paste."""

from typing import Any

import pytest
import torch
from torch import nn

from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.planning.adaptive.search_space import search_space_of
from thalweg.comparison.planning.search import draw_settings
from thalweg.errors import SettingError, ThalwegError
from thalweg.registry import RULES, WRAPPERS
from thalweg.rules import Adam, Range


def whole_settings() -> list[tuple[str, str]]:
    """The text of each rule and wrapper, with each of its settings that is a whole number."""
    wrapped = {f"{name}(adam)": kind(Adam()) for name, kind in WRAPPERS.items() if name not in ("galore", "split")}
    named = {name: kind() for name, kind in RULES.items()} | wrapped
    return [(text, key) for text, rule in named.items() for key, hyper in rule.hypers().items() if hyper.is_whole]


WHOLE = whole_settings()


def test_settings_of_steps_and_counts_are_whole() -> None:
    assert ("lookahead(adam)", "every") in WHOLE
    assert ("lbfgs", "history_size") in WHOLE
    assert ("warm_restarts(adam)", "period") in WHOLE
    assert ("soap", "update_every") in WHOLE
    assert ("schedule_free_adamw", "warmup_steps") in WHOLE
    assert ("warm_restarts(adam)", "stretch") not in WHOLE  # a ratio, by default 2


@pytest.mark.parametrize(("text", "key"), WHOLE)
def test_each_whole_setting_is_searched_in_whole_numbers(text: str, key: str) -> None:
    contender = parse(f"{text}:{key}=3..40")
    assert contender.space(1)[key] == Range(3, 40, "log", whole=True)
    for settings in draw_settings(contender, 8, seed=0):
        assert type(settings[key]) is int
        assert contender.rule_at(settings).settings()[key] == settings[key]
    assert {type(start[key]) for start in search_space_of(contender).starts.values()} == {int}


@pytest.mark.parametrize(
    ("text", "key", "bounds"),
    [
        ("then(adam,lbfgs):switch_at=100..1000", "switch_at", Range(100, 1000, "log", whole=True)),
        ("then(adam,lbfgs,switch_at=100..1000)", "switch_at", Range(100, 1000, "log", whole=True)),
        ("then(adam,sgd,switch_at=100..200)", "switch_at", Range(100, 200, "linear", whole=True)),
        ("then(adam,sgd):switch_at=0..20", "switch_at", Range(0, 20, "linear", whole=True)),
        ("then(adam,lbfgs:history_size=5..50)", "lbfgs_history_size", Range(5, 50, "log", whole=True)),
        ("then(adam:lr=1e-4..1e-2,sgd)", "lr", Range(1e-4, 1e-2, "log")),
        ("then(adam:lr=1e-4..1e-2,beta1=0.8,sgd,switch_at=3):lr_ratio=2", "lr", Range(1e-4, 1e-2, "log")),
        ("clip(adam:lr=1e-4..1e-2)", "lr", Range(1e-4, 1e-2, "log")),
        ("cautious(lookahead(adam,every=2..9))", "every", Range(2, 9, "linear", whole=True)),
        ("cautious(lookahead(adam):every=2..9)", "every", Range(2, 9, "linear", whole=True)),
        ("torch.optim:RMSprop:lr=1e-4..1e-2", "lr", Range(1e-4, 1e-2, "log")),
    ],
)
def test_ranges_inside_and_after_parentheses(text: str, key: str, bounds: Range) -> None:
    contender = parse(text)
    assert contender.space(1)[key] == bounds
    assert contender.name == text


def test_a_setting_replaces_a_range_inside_and_a_range_a_setting() -> None:
    assert "lr" not in parse("clip(adam:lr=1e-4..1e-2):lr=0.1").space(1)
    assert parse("clip(adam:lr=0.1):lr=1e-4..1e-2").space(1)["lr"].high == 1e-2


def test_settings_inside_parentheses_equal_those_after_them() -> None:
    inside = parse("then(adam:beta1=0.8,sgd:momentum=0.5,switch_at=7)")
    after = parse("then(adam:beta1=0.8,sgd:momentum=0.5):switch_at=7")
    assert inside.rule == after.rule
    assert inside.rule.settings()["beta1"] == 0.8
    assert inside.pinned == after.pinned == {"beta1", "sgd_momentum", "switch_at"}


def test_the_line_to_paste_has_the_whole_number() -> None:
    line = parse("then(adam,lbfgs,switch_at=100..1000)").describe().line_of_code({"lr": 0.01, "switch_at": 321})
    assert "switch_at=321)" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "lbfgs:history_size=50..5",
            r"lbfgs: history_size must be a range low..high, got '50..5'. Write history_size=",
        ),
        ("lbfgs:history_size=5..5", r"must be a range low..high, got '5..5'"),
        ("lbfgs:history_size=5.5..50", r"lbfgs: history_size must be a range of whole numbers, got '5.5..50'. Write"),
        ("lbfgs:history_size=5..x", r"must be a range of two numbers, got '5..x'. Write history_size=5..50"),
        ("lbfgs:history_size=5..", r"must be a range of two numbers, got '5..'"),
        ("lbfgs:history_size=5..inf", r"must be a range of two finite numbers, got '5..inf'"),
        ("lbfgs:history_size=0..50", r"history_size must be in \[1, 10000\], got 0"),
        ("lbfgs:line_search_fn=a..b", r"must be one of fixed, strong_wolfe, so it has no range, got 'a..b'. Compare"),
        ("sgd:nesterov=0..1", r"nesterov must be True or False, so it has no range"),
        ("torch.optim:SGD:nesterov=0..1", r"nesterov must be True or False, so it has no range"),
        (
            "lookahead(adam):every=2.5",
            r"lookahead\(adam\): every must be a whole number >= 1, got '2.5'. Write every=2,",
        ),
        ("then(adam,sgd,switch_at=1.5)", r"switch_at must be a whole number >= 0, got '1.5'"),
        ("then(adam,sgd:lr=0.1)", r"lr must be set once, since the rules share it, got 'sgd:lr=0.1'. .* lr_ratio=10"),
        ("then(adam,sgd:lr=0.1..1)", r"lr must be set once"),
        ("adam:lr=0.1..0.01", r"adam: lr must be a range low..high, got '0.1..0.01'. Write lr=0.01..0.1, say."),
        ("thne(adam,sgd)", r"no wrapper is called 'thne'. Did you mean then"),
    ],
)
def test_what_is_no_range_is_refused_with_a_remedy(text: str, message: str) -> None:
    with pytest.raises(ThalwegError, match=message):
        parse(text)


def counted(params: Any, lr: float = 0.1, history: int = 5, steps=10, decay=0, start=1) -> torch.optim.Optimizer:  # type: ignore[no-untyped-def]  # as users write them
    return torch.optim.SGD(params, lr=lr, weight_decay=decay)


def test_numbers_of_a_foreign_optimizer_are_whole_only_if_declared_so() -> None:
    contender = parse(f"{__file__}:counted:history=3..40,steps=3..40,decay=0.1..0.9,start=0.25")
    assert [name for name, bounds in contender.space(1).items() if bounds.whole] == ["history", "steps"]
    assert contender.rule.settings()["start"] == 0.25
    with pytest.raises(SettingError, match="history must be a whole number"):
        parse(f"{__file__}:counted:history=2.5")


def test_fractions_reach_a_foreign_optimizer_whose_defaults_are_written_as_whole_numbers() -> None:
    contender = parse("torch.optim:SGD:weight_decay=0.1,momentum=0.9,dampening=0.3")
    (group,) = contender.optimizer([nn.Parameter(torch.ones(2))], {"weight_decay": 0.25}).param_groups
    assert (group["weight_decay"], group["momentum"], group["dampening"]) == (0.25, 0.9, 0.3)
