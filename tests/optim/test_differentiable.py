"""Differentiable steps: gradients with respect to the start and to the settings."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from thalweg import optim
from thalweg.errors import ParameterError


def as_leaves(settings: dict[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
    """Return the settings as tensors that require a gradient, and these tensors."""
    leaves: list[Tensor] = []

    def leaf(value: float) -> Tensor:
        leaves.append(torch.tensor(value, dtype=torch.float64, requires_grad=True))
        return leaves[-1]

    return {
        name: tuple(map(leaf, value)) if isinstance(value, tuple) else leaf(value) for name, value in settings.items()
    }, leaves


def loss_after_training(kind: Any, settings: dict[str, Any], start: Tensor) -> Tensor:
    """Return the loss after four steps whose gradients depend on the steps before."""
    param, goal = start.clone(), torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    optimizer = kind([param], **settings, differentiable=True)
    for _ in range(4):
        (param.grad,) = torch.autograd.grad((param - goal).pow(4).sum(), param, create_graph=True)
        optimizer.step()
    return (param - goal).square().sum()


def hypergradients(kind: Any, settings: dict[str, Any]) -> list[float]:
    """Return the gradient with respect to the first element of the start and to each setting."""
    tensors, leaves = as_leaves(settings)
    start = torch.linspace(0.5, 2, 6, dtype=torch.float64).view(3, 2).requires_grad_()
    first, *others = torch.autograd.grad(loss_after_training(kind, tensors, start), [start, *leaves])
    return [float(first[0, 0]), *map(float, others)]


@pytest.mark.parametrize(
    ("ours", "torchs", "settings"),
    [
        (optim.SGD, torch.optim.SGD, {"lr": 0.01}),
        (optim.SGD, torch.optim.SGD, {"lr": 0.01, "weight_decay": 0.1}),
        (optim.Adam, torch.optim.Adam, {"lr": 0.03}),
        (optim.Adam, torch.optim.Adam, {"lr": 0.03, "betas": (0.8, 0.9)}),
        (optim.AdamW, torch.optim.AdamW, {"lr": 0.03, "weight_decay": 0.2}),
    ],
)
def test_hypergradients_are_torchs(ours: Any, torchs: Any, settings: dict[str, Any]) -> None:
    try:
        expected = hypergradients(torchs, settings)
    except RuntimeError:  # torch writes over what the backward pass needs
        pytest.skip("torch cannot differentiate these settings")
    # torch corrects biases in float32.
    assert hypergradients(ours, settings) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (optim.SGD, {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.1}),
        (optim.AdamW, {"lr": 0.03, "betas": (0.8, 0.9), "eps": 0.1, "weight_decay": 0.2}),
        (optim.NAdam, {"lr": 0.03}),
        (optim.LAMB, {"lr": 0.03, "weight_decay": 0.2}),
        (partial(optim.AdEMAMix, beta3_warmup=9), {"lr": 0.03, "betas": (0.8, 0.9, 0.99)}),
        (optim.Muon, {"lr": 0.03, "momentum": 0.8}),
        (optim.optimizer_for("clip(adam)"), {"lr": 0.03, "max_norm": 0.5}),
        (optim.optimizer_for("lookahead(sgd)"), {"lr": 0.01, "slow_step": 0.4}),
    ],
)
def test_hypergradients_are_those_of_finite_differences(kind: Any, settings: dict[str, Any]) -> None:
    start = torch.linspace(0.5, 2, 6, dtype=torch.float64).view(3, 2).requires_grad_()
    flat = [
        (name, k, value)
        for name, values in settings.items()
        for k, value in enumerate(values if isinstance(values, tuple) else (values,))
    ]
    for gradient, (name, k, value) in zip(hypergradients(kind, settings)[1:], flat, strict=True):
        losses = []
        for sign in (1, -1):
            moved = value * (1 + sign * 1e-5)
            members = settings[name]
            changed = (*members[:k], moved, *members[k + 1 :]) if isinstance(members, tuple) else moved
            losses.append(float(loss_after_training(kind, settings | {name: changed}, start).detach()))
        assert gradient == pytest.approx((losses[0] - losses[1]) / (2e-5 * value), rel=1e-4, abs=1e-6), (name, k)


def test_a_setting_in_float32_is_computed_with_in_float64() -> None:
    lr = torch.tensor(0.1, requires_grad=True)
    param = torch.ones(2, dtype=torch.float64)
    optimizer = optim.SGD([param], lr=lr, differentiable=True)
    param.grad = torch.tensor([1.0, 2.0], dtype=torch.float64)
    optimizer.step()
    assert torch.equal(param.detach(), 1 - torch.tensor(0.1).double() * param.grad)
    assert torch.autograd.grad(param.sum(), lr)[0] == -3


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (optim.ScheduleFreeSGD, {"lr": 0.1}, "weight_sum is kept from step to step as a number"),
        (optim.NAdam, {"momentum_decay": 0.01}, "mu_product is kept from step to step as a number"),
        (optim.optimizer_for("warm_restarts(sgd)"), {"stretch": 2.0}, "the rule reads one of them as a number"),
    ],
)
def test_settings_that_no_gradient_would_reach_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    param = torch.ones(3, dtype=torch.float64)
    optimizer = kind([param], **as_leaves(settings)[0], differentiable=True)
    param.grad = torch.ones_like(param)
    with pytest.raises(ParameterError, match=message):
        optimizer.step()


def test_a_leaf_cannot_take_a_differentiable_step() -> None:
    param = torch.ones(3, requires_grad=True)
    optimizer = optim.SGD([param], lr=0.1, differentiable=True)
    param.grad = torch.ones(3)
    with pytest.raises(ParameterError, match=r"got a leaf of shape \(3,\)\. Pass param\.clone\(\)"):
        optimizer.step()
