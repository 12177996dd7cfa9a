"""One rule after another, against torch's optimizers used one after the other."""

import copy
import io

import pytest
import torch
from torch import Tensor

from cases.references.wrapping import put
from cases.rules import gradients, parameters
from thalweg import optim, rules
from thalweg.comparison.contenders.parsing import parse
from thalweg.errors import ParameterError, SettingError
from thalweg.registry import name_of_rule, rule_from_name

STEPS = 12
GRADS = gradients(STEPS, torch.float64)
ADAM_THEN_SGD = rules.Switched((rules.Adam(lr=0.01), rules.SGD(momentum=0.9)), switch_at=5, lr_ratio=3.0)


def taken(optimizer: torch.optim.Optimizer, params: list[Tensor], first: int, last: int) -> None:
    for grads in GRADS[first:last]:
        put(params, grads)
        optimizer.step()


def made(rule: rules.Rule, params: list[Tensor]) -> torch.optim.Optimizer:
    return optim.optimizer_for(rule)(params)


def near(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def in_turn(first: torch.optim.Optimizer, second: torch.optim.Optimizer, params: list[Tensor], at: int = 5) -> None:
    taken(first, params, 0, at)
    taken(second, params, at, STEPS)


@pytest.mark.parametrize("backend", ["loop", "flat", "compiled"])
def test_adam_then_sgd_is_torchs_one_after_the_other(backend: str) -> None:
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    taken(optim.optimizer_for(ADAM_THEN_SGD)(ours, backend=backend), ours, 0, STEPS)
    in_turn(torch.optim.Adam(theirs, lr=0.01), torch.optim.SGD(theirs, lr=0.03, momentum=0.9), theirs)
    assert near(ours, theirs)


def test_the_second_rule_starts_afresh_also_under_the_names_of_the_first() -> None:
    rule = rules.Switched((rules.Adam(lr=0.01), rules.NAdam(beta1=0.8)), switch_at=5)
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    taken(made(rule, ours), ours, 0, STEPS)
    in_turn(torch.optim.Adam(theirs, lr=0.01), torch.optim.NAdam(theirs, lr=0.01, betas=(0.8, 0.999)), theirs)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-8) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("second", "num_dims"), [(rules.Muon(), 1), (rules.Shampoo(), 7)], ids=["muon", "shampoo"])
def test_a_parameter_that_the_second_rule_cannot_take_is_refused_at_once(second: rules.Rule, num_dims: int) -> None:
    with pytest.raises(ParameterError, match="every parameter must have [26] dimensions or"):
        made(rules.Switched((rules.Adam(), second)), [torch.ones([2] * num_dims)])


def test_it_switches_on_a_signal_and_under_a_schedule() -> None:
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    optimizer = made(rules.Clip(ADAM_THEN_SGD, max_norm=1e9).with_(switch_at=10**9), ours)
    taken(optimizer, ours, 0, 7)
    optimizer.param_groups[0].update(switch_at=7, lr=0.02)
    taken(optimizer, ours, 7, STEPS)
    in_turn(torch.optim.Adam(theirs, lr=0.01), torch.optim.SGD(theirs, lr=0.06, momentum=0.9), theirs, at=7)
    assert near(ours, theirs)


@pytest.mark.parametrize("at", [3, 8])
def test_it_resumes_exactly_before_and_after_the_switch(at: int) -> None:
    whole, halved = parameters(torch.float32), parameters(torch.float32)
    optimizers = [made(ADAM_THEN_SGD, params) for params in (whole, halved)]
    grads = gradients(STEPS, torch.float32)
    for k in range(STEPS):
        put(whole, grads[k])
        optimizers[0].step()
        if k == at:
            file = io.BytesIO()
            torch.save(optimizers[1].state_dict(), file)
            file.seek(0)
            optimizers[1] = copy.deepcopy(made(ADAM_THEN_SGD, halved))
            halved = optimizers[1].param_groups[0]["params"]
            optimizers[1].load_state_dict(torch.load(file, weights_only=True))
        put(halved, grads[k])
        optimizers[1].step()
    assert all(map(torch.equal, whole, halved))


def test_it_competes_by_name() -> None:
    found = parse("then(adam,momentum):switch_at=40,lr_ratio=30,lr=0.02")
    rule = rules.Switched((rules.Adam(lr=0.02), rules.SGD(momentum=0.9)), switch_at=40, lr_ratio=30.0)
    assert found.rule == rule
    assert name_of_rule(rule_from_name("cautious(then(clip(adam),sgd))")) == "cautious(then(clip(adam),sgd))"
    line = found.describe().line_of_code({"lr": 0.1})
    params = parameters(torch.float64)
    scope = {"thalweg": __import__("thalweg"), "model": torch.nn.ParameterList(params)}
    exec(line, scope)
    assert scope["optimizer"].param_groups[0]["switch_at"] == 40
    assert scope["optimizer"].param_groups[0]["sgd_momentum"] == 0.9
    with pytest.raises(SettingError, match="Switched: rules must be two different ones, got adam, sgd, lion"):
        rule_from_name("then(adam,sgd,lion)")
    with pytest.raises(SettingError, match="lr_ratio must be > 0"):
        ADAM_THEN_SGD.with_(lr_ratio=0.0)


def test_an_evaluation_right_after_the_switch_is_by_the_rule_that_made_the_last_step() -> None:
    inner = rules.MovingAverage(rules.AdamW(lr=0.1), average_decay=0.9)
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.optimizer_for(rules.Switched((inner, rules.SGD()), switch_at=3))([param])
    for taken in range(1, 5):
        param.grad = torch.ones(3)
        optimizer.step()
        trained = param.detach().clone()
        with optimizer.evaluating():
            assert torch.equal(param, trained) == (taken in (1, 4))  # the first average is of one
