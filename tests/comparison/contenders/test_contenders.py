import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from thalweg import optim, rules
from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.named import CONTENDERS, DEFAULT, RECOMMENDED
from thalweg.comparison.contenders.parsing import parse, resolve, split_list
from thalweg.comparison.planning.search import draw_settings, order_opened_by
from thalweg.errors import KeywordError, SettingError, UnknownNameError

ROOT = Path(__file__).parents[3]


def test_a_list_keeps_the_settings_of_a_contender_together() -> None:
    assert split_list("gd, adam:beta2=0.95,eps=1e-6 ,sgd") == ["gd", "adam:beta2=0.95,eps=1e-6", "sgd"]


def test_settings_in_a_name_are_pinned_and_the_others_stay_open() -> None:
    contender = parse("adam:beta2=0.95,amsgrad=true")
    assert contender.name == "adam:beta2=0.95,amsgrad=true"
    assert (contender.rule.beta2, contender.rule.amsgrad) == (0.95, True)
    assert "beta2" not in contender.space(3)
    assert "beta1" in contender.space(3)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("adamv", UnknownNameError, "thalweg: no optimizer is called 'adamv'. Did you mean "),
        ("adam:beta3=0.5", KeywordError, "got 'beta3'. Did you mean beta"),
        ("adam:beta1=2", SettingError, "Adam: beta1 must be in [0, 1), got 2.0."),
        ("adam:beta1", SettingError, "adam: a setting must read name=value, got 'beta1'."),
        ("adam:beta1=much", SettingError, "adam: beta1 must be a number, true or false, got 'much'."),
    ],
)
def test_what_nobody_is_called_is_refused(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        parse(text)
    assert message in str(error.value)


def test_contenders_are_names_rules_or_contenders_each_once() -> None:
    mine = Contender("mine", rules.SGD(lr=0.1))
    contenders = resolve(["sgd", rules.AdamW(eps=1e-6), mine])
    assert [contender.name for contender in contenders] == ["sgd", "adamw:eps=1e-06", "mine"]
    assert contenders[1].pinned == {"eps"}
    assert parse(contenders[1].name).rule == contenders[1].rule
    (flagged,) = resolve([rules.AdamW(amsgrad=True)])
    assert parse(flagged.name).rule == flagged.rule
    with pytest.raises(SettingError, match="lr must be a number to compete, got a tensor"):
        resolve([rules.SGD(lr=torch.tensor(0.1))])
    assert [contender.name for contender in resolve("sgd,adam")] == ["sgd", "adam"]
    with pytest.raises(SettingError, match="named once, got 'sgd' twice"):
        resolve(["sgd", "sgd"])
    with pytest.raises(SettingError, match="at least one contender"):
        resolve([])
    with pytest.raises(SettingError, match="a class, a function or a Contender, got int"):
        resolve([3])


def test_plain_descent_has_no_momentum_to_search() -> None:
    for name in ("gd", "sgd"):
        assert set(CONTENDERS[name].space(3)) == {"lr", "weight_decay"}
    assert "momentum" in CONTENDERS["momentum"].space(2)


def test_where_the_optimum_is_known_weight_decay_is_off_unless_it_was_asked_for() -> None:
    held = CONTENDERS["adamw"].keeping_the_optimum()
    assert held.rule.weight_decay == 0
    assert "weight_decay" not in held.space(3)
    assert parse("adamw:weight_decay=0.1").keeping_the_optimum().rule.weight_decay == 0.1


@pytest.mark.parametrize("name", CONTENDERS)
def test_the_line_to_paste_makes_exactly_the_optimizer_that_was_trained(name: str) -> None:
    contender = CONTENDERS[name]
    for settings in draw_settings(contender, 32, seed=1):
        model = nn.Linear(2, 2, bias=False)  # some take matrices alone
        line = contender.describe().line_of_code(settings)
        scope = {"thalweg": __import__("thalweg"), "model": model}
        exec(line, scope)
        trained = contender.optimizer(model.parameters(), settings)
        assert type(scope["optimizer"]) is type(trained)
        for key, value in trained.param_groups[0].items():
            if key != "params":
                assert scope["optimizer"].param_groups[0][key] == value


def test_draws_start_at_the_defaults_and_stay_in_the_space() -> None:
    contender = CONTENDERS["adamw"]
    drawn = draw_settings(contender, 30, seed=3)
    space = contender.space(3)
    assert len(drawn) == 30
    assert drawn[0] == {name: getattr(contender.rule, name) for name in space}
    for settings in drawn:
        assert settings.keys() == space.keys()
        contender.rule.with_(**settings)
    for settings in drawn[1:]:
        assert all(space[name].low <= value <= space[name].high for name, value in settings.items())
    assert drawn == draw_settings(contender, 30, seed=3)
    assert drawn != draw_settings(contender, 30, seed=4)


def test_draws_cover_the_learning_rate_evenly() -> None:
    contender = CONTENDERS["sgd"]
    bounds = contender.space(1)["lr"]
    positions = sorted(bounds.position(settings["lr"]) for settings in draw_settings(contender, 9, seed=0)[1:])
    # Eight Sobol points: one in each eighth of the range.
    assert [int(8 * position) for position in positions] == list(range(8))


def test_a_small_budget_opens_the_learning_rate_alone() -> None:
    assert [order_opened_by(trials) for trials in (1, 9, 10, 24, 25)] == [1, 1, 2, 2, 3]


def test_a_contender_with_nothing_to_search_has_one_setting() -> None:
    contender = Contender("fixed", rules.SGD(lr=0.1), pinned=frozenset({"lr", "momentum", "weight_decay"}))
    assert draw_settings(contender, 16, seed=0) == [{}]


def test_state_bytes_are_those_of_the_running_optimizer() -> None:
    for name in DEFAULT:
        for dtype in (torch.float32, torch.bfloat16):
            model = nn.Linear(5, 3).to(dtype)
            optimizer = CONTENDERS[name].optimizer(model.parameters(), {})
            model(torch.ones(1, 5, dtype=dtype)).sum().backward()
            optimizer.step()
            num_bytes = sum(
                value.numel() * value.element_size()
                for state in optimizer.state.values()
                for key, value in state.items()
                if key != "step"
            )
            assert CONTENDERS[name].state_bytes(model, {}) == num_bytes


def test_a_rule_of_ones_own_competes_through_an_optimizer_made_for_it() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(rules.Rule, scope="elementwise"):
        """A step along the gradient."""

        lr: float = rules.hyper(0.1, ">= 0", symbol="η", doc="learning rate")

    contender = Contender("mine", Mine())
    assert contender.describe().optimizer == "thalweg.optim.optimizer_for(Mine)"
    optimizer = contender.optimizer([torch.ones(2, requires_grad=True)], {"lr": 0.2})
    assert isinstance(optimizer, optim.optimizer_for(Mine))


def test_wrappers_nest_by_name_and_are_written_as_python() -> None:
    first, second = resolve("clip(cautious(adamw:beta2=0.95)):max_norm=0.5,adam")
    assert second.name == "adam"
    assert first.rule == rules.Clip(rules.Cautious(rules.AdamW(beta2=0.95)), max_norm=0.5)
    assert {"beta2", "max_norm"} <= first.pinned
    line = first.describe().line_of_code({"lr": 0.2})
    constructor = "thalweg.optim.optimizer_for(thalweg.rules.Clip(thalweg.rules.Cautious(thalweg.rules.AdamW())))"
    assert line == f"optimizer = {constructor}(model.parameters(), lr=0.2, betas=(0.9, 0.95), max_norm=0.5)"
    with pytest.raises(UnknownNameError, match="no wrapper is called 'cautius'. Did you mean cautious"):
        parse("cautius(adam)")
    with pytest.raises(
        SettingError, match="an optimizer that is wrapped or combined must be thalweg's own, got 'torch.optim:NAdam'"
    ):
        parse("clip(torch.optim:NAdam)")


def test_what_is_recommended_is_on_record_and_beats_the_default() -> None:
    record = json.loads((ROOT / "benchmarks/records/recommended.json").read_text())["contenders"]
    assert {name for name, contender in CONTENDERS.items() if contender.recommended} <= set(RECOMMENDED) <= set(record)
    for name, recorded in record.items():
        means = recorded["mean_factor"]
        better = means["left_out"] < means["default"]  # judged on tasks that had no say
        assert dict(parse(name).recommended) == (recorded["recommended"] if better else {})


def test_a_combination_may_have_a_starting_point_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECOMMENDED, "muon+adamw", {"lr": 0.02})
    assert parse("muon+adamw").recommended == {"lr": 0.02}
    assert parse("muon+adamw:momentum=0.9").recommended == {"lr": 0.02}
    assert parse("muon+adamw:lr=0.1").recommended == {}
    assert parse("cautious(adamw)").recommended == {}


def test_a_pinned_setting_is_not_recommended_otherwise() -> None:
    assert dict(parse("adam:beta2=0.9").recommended) == dict(CONTENDERS["adam"].recommended)
    assert dict(parse("adam:lr=0.5").recommended) == {}  # half of a recommendation is none


def test_whole_numbers_and_choices_are_read_as_such() -> None:
    settings = parse("clip(muon):ns_steps=4,adjust_lr_fn=match_rms_adamw").rule.settings()
    assert (settings["ns_steps"], settings["adjust_lr_fn"]) == (4, "match_rms_adamw")
    with pytest.raises(SettingError, match="ns_steps must be a whole number"):
        parse("clip(muon):ns_steps=4.5")
