"""Settings that change at every step: the rule is that of all settings, and only what changed is read again."""

from typing import Any

import pytest
import torch

from cases.wrappers import CASES, make_optimizer
from thalweg import optim, rules
from thalweg.optim.settings import keywords
from thalweg.rules.core.hyper import Hyper

ROUTED = rules.Routed((rules.Muon(), rules.AdamW()))


def routed_groups() -> list[dict[str, Any]]:
    return [{"params": matrices(), "rule": "muon"}]


def matrices() -> list[torch.Tensor]:
    params = [torch.ones(6, 4, requires_grad=True), torch.ones(4, 6, requires_grad=True)]
    for param in params:
        param.grad = torch.full_like(param, 0.1)
    return params


@pytest.mark.parametrize("rule", [ROUTED, *(case.rule for case in CASES if case.rule.traits.needs == "gradient")])
def test_settings_that_change_one_after_the_other_make_the_rule_of_all_settings(rule: rules.Rule) -> None:
    optimizer: Any = make_optimizer(rule, routed_groups() if rule is ROUTED else matrices())
    (group,) = optimizer.param_groups
    numbers = [name for name, value in group.items() if type(value) is float and value > 0 and name in rule.hypers()]
    for name in ("lr", *numbers, "lr"):
        group[name] *= 0.75
        program = optimizer._program_for(0)(torch.float32)
        settings = keywords.settings(rule, group)
        fresh = rule.with_(**settings).for_step(1)
        assert settings[name] == group[name]
        assert program.rule == fresh
        assert program.rule.traits == fresh.traits
        assert program.coefficients(1) == type(program)(fresh).coefficients(1)


def test_a_schedule_reads_again_the_settings_that_it_changes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = optim.optimizer_for(ROUTED)(routed_groups())
    optimizer.step()
    parse, subjects = Hyper.parse, []

    def counted(self: Hyper, subject: str, value: Any) -> Any:
        subjects.append(subject)
        return parse(self, subject, value)

    monkeypatch.setattr(Hyper, "parse", counted)
    optimizer.step()
    assert not subjects
    optimizer.param_groups[0]["lr"] *= 0.5
    optimizer.step()
    assert {subject.rpartition(": ")[2] for subject in subjects} <= {"lr", "maximize"}
    assert [subject for subject in subjects if subject.endswith(": lr")] == ["Muon: lr", "AdamW: lr"]


def test_each_group_follows_its_own_settings() -> None:
    optimizer: Any = optim.optimizer_for(ROUTED)(
        [*routed_groups(), {"params": matrices(), "rule": "adamw", "lr": 0.5, "weight_decay": 0.3}]
    )
    for step in range(3):
        optimizer.step()
        for number, group in enumerate(optimizer.param_groups):
            settings = optimizer._program_for(number)(torch.float32).rule.settings()
            assert {name: settings[name] for name in ("rule", "lr", "weight_decay")} == {
                name: group[name] for name in ("rule", "lr", "weight_decay")
            }
        optimizer.param_groups[step % 2]["lr"] *= 0.5


def test_a_program_holds_values_of_python_whatever_a_group_was_given() -> None:
    optimizer: Any = optim.optimizer_for(ROUTED)(routed_groups())
    optimizer.param_groups[0]["maximize"] = torch.tensor(True)
    assert optimizer._program_for(0)(torch.float32).maximize is True


def test_a_setting_that_is_refused_leaves_the_last_rule() -> None:
    optimizer: Any = optim.optimizer_for(ROUTED)(routed_groups())
    optimizer.step()
    group = optimizer.param_groups[0]
    group["lr"], first = -1.0, group["lr"]
    with pytest.raises(ValueError, match="lr must be"):
        optimizer.step()
    group["lr"] = first / 2
    optimizer.step()
    assert optimizer._program_for(0)(torch.float32).rule.settings()["lr"] == first / 2
