"""Every rule against its reference, and the properties that every rule must have."""

import inspect
import math
from dataclasses import fields
from typing import Any

import pytest
import torch

from cases.rules import CASES, Case, gradients, parameter_change, parameters, relative_error
from thalweg import optim, rules
from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.errors import KeywordError, SettingError
from thalweg.optim.settings import keywords

TOLERANCE = 2e-6  # in float32, for most
RULES = [getattr(rules, name) for name in optim.__all__ if hasattr(rules, name)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_its_reference_after_50_steps(case: Case, dtype: torch.dtype) -> None:
    ours, theirs = (
        parameter_change(kind, case.settings, dtype, shapes=case.shapes) for kind in (case.optimizer, case.reference)
    )
    error = relative_error(ours, theirs)
    allowed = {torch.float32: case.float32_error, torch.float64: max(1e-12, case.reference_error)}
    assert error <= allowed[dtype]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_hyperparameter_moves_the_result_by_ten_tolerances(case: Case) -> None:
    reference = parameter_change(case.optimizer, case.settings, torch.float64, evaluated=True, shapes=case.shapes)
    for keyword, value in case.settings.items():
        if isinstance(value, tuple):
            variants = [{keyword: (*value[:k], changed(element), *value[k + 1 :])} for k, element in enumerate(value)]
        else:
            variants = [{keyword: changed(value)}]
        for variant in variants:
            moved = parameter_change(
                case.optimizer, case.settings | variant, torch.float64, evaluated=True, shapes=case.shapes
            )
            assert relative_error(moved, reference) > 10 * max(TOLERANCE, case.float32_error), variant


def changed(value: Any) -> Any:
    """Return another value of a setting: twice as large, or half as far from 1."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return {
            "match_rms_adamw": "original",
            "polar-express": "jordan",
            "tracked": "exact",
            "float32": "bfloat16",
        }[value]
    if isinstance(value, int) and value < 10:
        return value - 1
    if value == 0:
        return 0.5
    if value < 0:
        return value / 2
    return value * 2 if value >= 1 or value * 2 < 1 else 1 - (1 - value) / 2


def test_every_hyperparameter_of_every_rule_is_in_a_case() -> None:
    tried = {(type(case.optimizer.rule), keyword) for case in CASES for keyword in case.settings}
    for rule in RULES:
        for keyword in keywords.members(rule()):
            # Cases have fixed gradients. Rules that call a closure are tested in tests/optim/closures/test_lbfgs.py.
            assert (rule, keyword) in tried or rule.declared_traits.needs == "closure"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inputs_are_not_written(case: Case) -> None:
    rule, param, grad = (
        case.rule,
        parameters(torch.float32, case.shapes)[0],
        gradients(1, torch.float32, case.shapes)[0][0],
    )
    state = rule.init(param)
    before = [tensor.clone() for tensor in (param, grad, *state)]
    list(loop.update([loop.TensorStep(Program(rule), param, grad, state, Program(rule).coefficients(1))]))
    assert all(torch.equal(tensor, was) for tensor, was in zip((param, grad, *state), before, strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbers_enter_the_kernel_through_coefficients_alone(case: Case) -> None:
    rule, param, grad = (
        case.rule,
        parameters(torch.float32, case.shapes)[0],
        gradients(1, torch.float32, case.shapes)[0][0],
    )
    state, coefficients = rule.init(param), Program(rule).coefficients(3)
    poisoned = rule.with_()
    for name, declared in rule.hypers().items():
        if not declared.is_static and getattr(rule, name) != 0:
            object.__setattr__(poisoned, name, math.nan)
    (expected,), (actual,) = (
        list(loop.update([loop.TensorStep(Program(variant), param, grad, state, coefficients)]))
        for variant in (rule, poisoned)
    )
    assert torch.equal(expected[0], actual[0])
    assert all(torch.equal(a, b) for a, b in zip(expected[1], actual[1], strict=True))


def test_coefficients_are_computed_in_float64() -> None:
    # 1 - 0.999 in float32 is off by 5e-5 of itself.
    assert rules.Adam().coefficients(1).fresh2 == 1 - 0.999


def test_sgd_with_momentum_is_the_heavy_ball_for_a_constant_learning_rate() -> None:
    alpha, beta = 0.05, 0.8
    curvature = torch.tensor([1.0, 0.1], dtype=torch.float64)
    now = before = torch.tensor([1.0, 1.0], dtype=torch.float64)
    param = now.clone().requires_grad_()
    optimizer = optim.SGD([param], lr=alpha, momentum=beta)
    for _ in range(50):
        now, before = now - alpha * curvature * now + beta * (now - before), now
        param.grad = curvature * param.detach()
        optimizer.step()
    torch.testing.assert_close(param.detach(), now, rtol=1e-12, atol=0)


def test_stable_adamw_takes_shorter_steps_than_adamw_of_few_elements_where_nothing_spikes() -> None:
    """The claim under `Avoid:` of StableAdamW."""
    for numel, expected in ((1, 0.91), (1000, 0.99)):
        generator = torch.Generator().manual_seed(0)
        params = [torch.zeros(numel, dtype=torch.float64) for _ in range(2)]
        settings = {"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.0}
        optimizers = [
            kind([param], **settings) for kind, param in zip((optim.StableAdamW, optim.AdamW), params, strict=True)
        ]
        ratios = []
        for _ in range(1000):
            grad = torch.randn(numel, dtype=torch.float64, generator=generator)
            before = [param.clone() for param in params]
            for param, optimizer in zip(params, optimizers, strict=True):
                param.grad = grad
                optimizer.step()
            stable, plain = ((param - old).norm() for param, old in zip(params, before, strict=True))
            ratios.append(float(stable / plain))
        assert abs(sum(ratios[50:]) / 950 - expected) < 0.01


def test_normuon_steps_at_its_defaults_as_adamw_does() -> None:
    generator, moved = torch.Generator().manual_seed(0), []
    for kind in (optim.NorMuon, optim.AdamW):
        param = torch.zeros(64, 64)
        optimizer = kind([param], weight_decay=0.0)
        for _ in range(20):
            before = param.clone()
            param.grad = torch.randn(64, 64, generator=generator)
            optimizer.step()
        moved.append(float((param - before).square().mean().sqrt()))
    assert 0.5 < moved[0] / moved[1] < 2
    assert rules.NorMuon().hypers()["lr"].search == rules.AdamW().hypers()["lr"].search


def test_centered_rmsprop_survives_a_constant_gradient_where_torch_does_not() -> None:
    """The claim under `Departs:` of RMSprop."""
    settings = {"lr": 1e-3, "centered": True, "alpha": 0.5}
    ends = []
    for optimizer in (optim.RMSprop, torch.optim.RMSprop):
        param = torch.linspace(0.1, 1, 100).requires_grad_()
        running = optimizer([param], **settings)
        for _ in range(60):
            param.grad = torch.linspace(0.1, 1, 100)
            running.step()
        ends.append(param.detach())
    assert ends[0].isfinite().all()
    assert ends[1].isnan().any()


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        (rules.AdamW, {"eps": -1e-8}, "AdamW: eps must be >= 0, got -1e-08. The default is 1e-08."),
        (rules.Adam, {"beta1": 1.0}, "Adam: beta1 must be in [0, 1), got 1.0. The default is 0.9."),
        (rules.SGD, {"lr": math.nan}, "SGD: lr must be >= 0, got nan. The default is 0.001."),
        (rules.SGD, {"lr": math.inf}, "SGD: lr must be >= 0, got inf. The default is 0.001."),
        (rules.SGD, {"lr": "big"}, "SGD: lr must be a number >= 0, got 'big'."),
        (rules.SGD, {"lr": True}, "SGD: lr must be a number >= 0, got True."),
        (rules.RMSprop, {"centered": "no"}, "RMSprop: centered must be True or False, got 'no'."),
        (
            rules.SGD,
            {"nesterov": True},
            "SGD: nesterov needs momentum > 0 and dampening = 0, got momentum = 0.0 and dampening = 0.0.",
        ),
    ],
)
def test_settings_out_of_bounds_are_rejected(rule: type[rules.Rule], settings: dict, message: str) -> None:
    with pytest.raises(SettingError) as error:
        rule(**settings)
    assert str(error.value) == message


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(KeywordError, match=r"got 'weight_decai'. Did you mean weight_decay\?"):
        rules.AdamW().with_(weight_decai=0.1)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_documents_itself(rule: type[rules.Rule]) -> None:
    explanation = rules.explain(rule())
    assert explanation.title
    assert explanation.title.lower() == rule.summary().lower()
    assert "θ_t" in explanation.formula
    assert explanation.source
    assert explanation.departs
    assert explanation.use
    assert explanation.avoid
    module = inspect.getmodule(rule).__doc__
    for hyper in explanation.hypers:
        assert hyper.doc
        # The formula uses the symbol of each number.
        assert hyper.symbol in module


@pytest.mark.parametrize("rule", RULES)
def test_every_field_is_declared_and_every_range_lies_within_its_bound(rule: type[rules.Rule]) -> None:
    assert [field.name for field in fields(rule)] == list(rule().hypers())
    for declared in rule().hypers().values():
        if declared.bound is not None:
            assert declared.default in declared.bound
        if declared.search is not None:
            assert declared.search.low in declared.bound
            assert declared.search.high in declared.bound


def test_memory_is_read_from_the_layout() -> None:
    shape = torch.Size([10, 10])
    numbers = {
        rules.SGD(): 0,
        rules.SGD(momentum=0.9): 100,
        rules.RMSprop(centered=True, momentum=0.5): 300,
        rules.Adam(): 200,
        rules.Adam(amsgrad=True): 300,
    }
    assert {rule: rule.state_numel(shape) for rule in numbers} == numbers
    bytes_per_element = {
        rules.Adafactor(): 0.0,
        rules.Muon(): 4.0,
        rules.Dion(): 5.0,
        rules.Routed((rules.Muon(), rules.Adam())): 4.0,
    }
    assert {rule: rules.explain(rule).state_bytes for rule in bytes_per_element} == bytes_per_element
