"""Captures that would be wrong are refused."""

import pytest
import torch

from cases.wrappers import make_optimizer
from tests.optim.captured.twins import parameters, set_gradients
from thalweg import optim, rules
from thalweg.errors import KeywordError, ParameterError, SettingError
from thalweg.optim.captured import steps
from thalweg.optim.settings import device_groups


@pytest.mark.parametrize(
    "rule",
    [
        rules.SAM(rules.SGD()),
        rules.LBFGS(),
        rules.Shampoo(),
        rules.SOAP(),
        rules.PSGDKron(),
        rules.GaLore(rules.Adam()),
    ],
    ids=lambda rule: rule.name,
)
def test_steps_that_the_host_decides_are_refused(rule: rules.Rule) -> None:
    with pytest.raises(KeywordError, match="capturable must be False, since"):
        make_optimizer(rule, parameters([(4, 3)]), capturable=True)
    switched = rules.Switched((rules.Adam(), rules.SGD()), switch_at=3)
    with pytest.raises(KeywordError, match="another rule takes over"):
        make_optimizer(switched, parameters([(4, 3)]), capturable=True)


def capture(monkeypatch: pytest.MonkeyPatch, *optimizers: optim.RuleOptimizer) -> None:
    """Let optimizers believe that they are on a GPU, and that a graph is captured."""
    for module in (device_groups, steps):
        monkeypatch.setattr(module, "is_capturing", lambda: True)
    for optimizer in optimizers:
        optimizer._on_gpu = True


def test_captures_that_would_be_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    default, captured = optim.Adam(parameters([(4,), (3,)])), optim.Adam(parameters([(4,), (3,)]), capturable=True)
    fresh = optim.Adam(parameters([(4,)]), capturable=True)
    for optimizer in (default, captured, fresh):
        set_gradients(optimizer.param_groups[0]["params"], 1)
    default.step()
    captured.step()
    capture(monkeypatch, default, captured, fresh)
    with pytest.raises(ParameterError, match="unless capturable=True"):
        default.step()
    with pytest.raises((ParameterError, SettingError), match="Take a step before"):
        fresh.step()
    captured.step()
    with pytest.raises(SettingError, match="lr must not be set while a step is captured"):
        captured.param_groups[0]["lr"] = 0.5
    captured.param_groups[0]["params"][1].grad = None
    with pytest.raises(ParameterError, match=r"one of shape \(3,\) without"):
        captured.step()


def test_settings_and_gradients_that_cannot_be_carried_are_refused() -> None:
    with pytest.raises(SettingError, match="momentum must not start at 0 as a tensor"):
        optim.SGD(parameters([(3,)]), lr=0.1, momentum=torch.tensor(0.0), capturable=True)
    with pytest.raises(KeywordError, match="capturable and differentiable"):
        optim.SGD(parameters([(3,)]), lr=0.1, capturable=True, differentiable=True)
    with pytest.raises(SettingError, match="lr must be on the device of the parameters"):
        optim.SGD([torch.ones(3, device="meta", requires_grad=True)], lr=torch.tensor(0.1), capturable=True)
    (param,) = parameters([(3, 2)])
    optimizer = optim.SGD([param], lr=0.1, capturable=True)
    param.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(ParameterError, match="gradients must be dense if capturable=True"):
        optimizer.step()
    with pytest.raises(SettingError, match="backend='compiled' must be possible, but capturable=True"):
        optim.SGD([param], lr=0.1, capturable=True, backend="compiled").step()
    optimizer = optim.Adam([param], capturable=True)
    optimizer.found_inf = torch.zeros(())
    with pytest.raises(ParameterError, match="a scaler must step without a closure"):
        optimizer.step(lambda: None)
