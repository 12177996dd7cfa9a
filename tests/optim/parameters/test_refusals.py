"""Inputs that optimizers refuse, without any effect on the optimizer."""

from typing import Any

import pytest
import torch
from torch import nn

from cases.rules import Case
from tests.optim.training import assert_same, each_case
from thalweg import optim, rules
from thalweg.errors import KeywordError, ParameterError, ParameterTypeError, SettingError, ThalwegError


@each_case
def test_parameters_of_many_dimensions_are_taken_or_refused_when_the_optimizer_is_made(case: Case) -> None:
    most = case.rule.traits.max_dims
    param = torch.ones([2] * (most or 7), requires_grad=True)
    optimizer = case.optimizer([param], **case.settings)
    param.grad = torch.ones_like(param)
    for _ in range(2):  # SOAP's first step moves nothing
        optimizer.step()
    assert not torch.equal(param, torch.ones_like(param))
    if most is not None:
        with pytest.raises(ParameterError) as error:
            case.optimizer([torch.ones([2] * (most + 1))], **case.settings)
        assert str(error.value).startswith(
            f"{case.optimizer.__name__}: every parameter must have {most} dimensions or fewer, got one of shape (2, 2,"
        )


def test_a_stack_may_have_a_dimension_more_than_what_it_holds() -> None:
    optimizer = optim.optimizer_for(rules.Split(rules.Shampoo(), stacked=True))
    param = torch.ones([2] * 7, requires_grad=True)
    stepped = optimizer([param])
    param.grad = torch.ones_like(param)
    stepped.step()
    assert param.isfinite().all()
    with pytest.raises(ParameterError, match="must have 7 dimensions or fewer"):
        optimizer([torch.ones([2] * 8)])


@each_case
def test_lazy_modules_are_supported_unless_the_rule_needs_shapes(case: Case) -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.LazyLinear(3, bias=False), nn.Linear(3, 2, bias=False))

    def train(model: nn.Module, optimizer: optim.RuleOptimizer) -> list[torch.Tensor]:
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
        return list(model.parameters())

    inputs, lazy = torch.arange(20.0).view(5, 4).cos(), make()
    if case.rule.traits.needs_whole_matrices or case.rule.traits.max_dims is not None:
        with pytest.raises(ParameterError) as error:
            case.optimizer(lazy.parameters(), **case.settings)
        assert str(error.value) == (
            f"{case.optimizer.__name__}: every parameter must have a shape, got one of a lazy module that has none yet."
            " Pass one batch through the model before you create the optimizer."
        )
        return
    optimizer = case.optimizer(lazy.parameters(), **case.settings)
    optimizer.load_state_dict(optimizer.state_dict())
    initialized = make()
    initialized(inputs)
    lazy(inputs)
    lazy.load_state_dict(initialized.state_dict())
    assert_same(train(lazy, optimizer), train(initialized, case.optimizer(initialized.parameters(), **case.settings)))


BAD: list[tuple[Any, dict[str, Any], type[ThalwegError], str]] = [
    ([], {}, ParameterError, "AdamW: params must hold at least one parameter, got none."),
    ([3.0], {}, ParameterTypeError, "AdamW: every parameter must be a tensor, got float (3.0)."),
    (torch.zeros(2), {}, ParameterTypeError, "AdamW: params must be a list of tensors, got one tensor of shape (2,)."),
    ([torch.zeros(2)], {"lr": -1.0}, SettingError, "AdamW: lr must be >= 0, got -1.0."),
    ([torch.zeros(2)], {"betas": (0.9,)}, SettingError, "AdamW: betas must hold 2 numbers, got (0.9,)."),
    ([torch.zeros(2)], {"betas": (0.9, 1.0)}, SettingError, "AdamW: beta2 must be in [0, 1), got 1.0."),
    ([torch.zeros(2)], {"weight_decy": 0.1}, KeywordError, "got 'weight_decy'. Did you mean weight_decay?"),
    (3, {}, ParameterTypeError, "AdamW: params must be a list of tensors, got int."),
    ([{"lr": 0.1}], {}, ParameterError, "AdamW: a parameter group must have the key 'params', got ['lr']."),
    ([{"params": [torch.zeros(2)], "weight_decy": 0}], {}, KeywordError, "'weight_decy'. Did you mean weight_decay?"),
    ([{"params": [torch.zeros(2)], "backend": "flat"}], {}, KeywordError, "backend must be given to the optimizer"),
    (
        [torch.zeros(2)],
        {"lr": torch.ones(2)},
        SettingError,
        "AdamW: lr must be one number, got a tensor of shape (2,).",
    ),
    ([torch.zeros(2)], {"fused": True, "foreach": True}, KeywordError, "foreach and fused must not both be True"),
    ([torch.zeros(2)], {"capturable": "yes"}, SettingError, "capturable must be True or False"),
    (
        [torch.zeros(2)],
        {"backend": "fast"},
        SettingError,
        "backend must be one of loop, flat, compiled, batched or None",
    ),
    ([torch.zeros(2)], {"rounding": "up"}, SettingError, "must be one of nearest, kahan, stochastic, got 'up'"),
    ([torch.zeros(2)], {"rounding": "kahan", "seed": 0.5}, SettingError, "seed must be an integer"),
    ([torch.zeros(2).half()], {"rounding": "stochastic"}, ParameterError, "stochastic rounding is for bfloat16"),
    ([{"params": [torch.zeros(2)], "eps": -1.0}], {}, SettingError, "AdamW: eps must be >= 0, got -1.0."),
]


@pytest.mark.parametrize(("params", "settings", "kind", "message"), BAD)
def test_bad_input_gets_a_clear_error(params: Any, settings: dict, kind: type[ThalwegError], message: str) -> None:
    with pytest.raises(kind) as error:
        optim.AdamW(params, **settings)
    assert message in str(error.value)


def test_bad_input_leaves_the_optimizer_as_it_was() -> None:
    optimizer = optim.AdamW([torch.zeros(2)])
    with pytest.raises(SettingError):
        optimizer.add_param_group({"params": [torch.zeros(3)], "lr": -1.0})
    assert len(optimizer.param_groups) == 1


def test_none_is_no_setting() -> None:
    with pytest.raises(SettingError, match="weight_decay must be a number >= 0, got None"):
        optim.AdamW([torch.zeros(2)], weight_decay=None)
    optimizer = optim.AdamW([torch.zeros(2)])
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(SettingError, match="lr must be a number >= 0, got None"):
        optimizer.prepare()


def test_too_many_positions_and_twice_given_settings_are_refused() -> None:
    with pytest.raises(KeywordError, match="at most 5 settings may be given by position, got 6"):
        optim.SGD([torch.zeros(1)], 0.1, 0.9, 0.0, 0.0, False, True)
    with pytest.raises(KeywordError, match="lr must be given once"):
        optim.SGD([torch.zeros(1)], 0.1, lr=0.2)
