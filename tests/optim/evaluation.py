"""Optimizers that evaluate other values than they train, and their trainings."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg import rules
from thalweg.optim import RuleOptimizer, optimizer_for

# Each kind of rule that evaluates the model elsewhere, alone and in a nest, with an average that lags behind.
AVERAGING = [
    rules.ScheduleFreeAdamW(lr=0.1, warmup_steps=2),
    rules.ScheduleFreeSGD(lr=0.3, weight_decay=0.1),
    rules.ASGD(lr=0.1, t0=1),
    rules.MovingAverage(rules.AdamW(lr=0.1), average_decay=0.5),
    rules.PolyakAverage(rules.SGD(lr=0.1)),
    rules.Lookahead(rules.SGD(lr=0.1), every=4),
    rules.Clip(rules.MovingAverage(rules.Prodigy(d0=1e-2), average_decay=0.5)),
    rules.MovingAverage(rules.Mechanic(rules.SGD(lr=1.0), s_init=0.1), average_decay=0.5),
]


each_average = pytest.mark.parametrize("rule", AVERAGING, ids=lambda rule: rule.name)


STEPS = 6


def make_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)


def make(rule: rules.Rule, model: nn.Module, **settings: Any) -> RuleOptimizer:
    return optimizer_for(rule)(model.parameters(), backend="loop", **settings)


def train(optimizer: RuleOptimizer, model: nn.Module, first: int = 0, end: int = STEPS) -> None:
    for step in range(first, end):
        generator = torch.Generator().manual_seed(step)
        batch = torch.randn(5, 4, generator=generator).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()


def values_of(model: nn.Module) -> list[Tensor]:
    return [param.detach().clone() for param in model.parameters()]


def assert_same(model: nn.Module, expected: nn.Module) -> None:
    assert all(map(torch.equal, values_of(model), values_of(expected)))


def trained(rule: rules.Rule, **settings: Any) -> nn.Module:
    """Return a model after all steps, without evaluations."""
    model = make_model()
    train(make(rule, model, **settings), model)
    return model


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
