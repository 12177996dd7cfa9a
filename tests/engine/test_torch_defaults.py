"""Defaults of torch and autocast change no step."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from thalweg import optim, rules
from thalweg.registry import RULES, WRAPPERS


def test_the_default_device_and_dtype_change_nothing(fresh_machine: Path) -> None:
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        optimizer = optim.Adam([param], lr=0.1, backend="compiled")
        optimizer.step()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert [entry.dtype for entry in optimizer.state[param].values()] == [torch.float64, torch.float32, torch.float32]
    assert torch.allclose(param.detach(), torch.full((3,), 0.9))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DEFAULTS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}
EVERY_RULE = [*(kind() for kind in RULES.values()), *(kind(rules.Adam()) for kind in WRAPPERS.values())]


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.name)
def test_no_default_of_torch_changes_a_step(rule: rules.Rule, dtype: torch.dtype, default: str) -> None:
    def train(around: AbstractContextManager[Any]) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in ((4, 6), (3, 2, 2))]

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            total = sum(torch.sin(3 * param).square().sum() for param in params)
            total.backward()
            return total

        with around:
            rounding = "stochastic" if dtype == torch.bfloat16 and rule.traits.needs != "closure" else "nearest"
            optimizer = optim.optimizer_for(rule)(params, backend="loop", rounding=rounding)
            for _ in range(3):
                if rule.traits.needs == "curvature":
                    total = sum(torch.sin(3 * param).square().sum() for param in params)
                    optimizer.estimate_curvature(total)
                optimizer.step(loss)
            optimizer.eval()
        return [param.detach() for param in params]

    for actual, expected in zip(train(DEFAULTS[default]()), train(nullcontext()), strict=True):
        assert actual.isfinite().all()
        assert torch.equal(actual, expected)


def test_autocast_ends_where_a_step_begins() -> None:
    params = [torch.eye(8).requires_grad_() for _ in range(2)]
    optimizers = [optim.Muon([params[0]]), optim.Muon([params[1]])]
    for k, (param, optimizer) in enumerate(zip(params, optimizers, strict=True)):
        param.grad = torch.cos(torch.arange(64.0)).view(8, 8)
        with torch.autocast("cpu", torch.bfloat16, enabled=k > 0):
            optimizer.step()
    assert torch.equal(*params)
