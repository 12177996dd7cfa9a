"""The interface carries what is not built yet: wrappers, reductions over a tensor, and over the model.

Each is written here as a rule in a few lines, run by the unchanged engine, and compared with torch.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import gradients, parameters
from thalweg.engine import loop
from thalweg.engine.program import Program
from thalweg.rules import SGD, Adam, Mean, Rule, Sum, hyper, like_param, row, steps


def run(rule: Rule, num_steps: int = 20) -> list[Tensor]:
    params = parameters(torch.float64)
    states = [rule.init(param) for param in params]
    for step, grads in enumerate(gradients(num_steps, torch.float64), start=1):
        items = [
            loop.Item(Program(rule), param, grad, state, rule.coefficients(step))
            for param, grad, state in zip(params, grads, states, strict=True)
        ]
        params, states = (list(part) for part in zip(*loop.update(items), strict=True))
    return params


@dataclass(frozen=True, kw_only=True)
class Clip(Rule, scope="model"):
    """The gradients scaled so that their norm over the model is at most `max_norm`."""

    inner: Rule
    max_norm: float = hyper(1.0, "> 0", symbol="c", doc="largest norm")

    def init(self, param: Tensor) -> Any:
        return self.inner.init(param)

    def coefficients(self, step: int) -> Any:
        return row(max_norm=self.max_norm, inner=self.inner.coefficients(step))

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        square = yield Sum(grad * grad, over="model")
        scale = torch.clamp(c.max_norm / (square.sqrt() + 1e-6), max=1.0)
        return (yield from steps(self.inner.direction(param, grad * scale, state, c.inner)))

    def apply(self, param: Tensor, direction: Tensor, c: Any) -> Any:
        return self.inner.apply(param, direction, c.inner)


@dataclass(frozen=True, kw_only=True)
class Cautious(Rule, scope="tensor"):
    """The inner direction where it agrees with the gradient in sign, scaled up for what is left out."""

    inner: Rule

    def init(self, param: Tensor) -> Any:
        return self.inner.init(param)

    def coefficients(self, step: int) -> Any:
        return self.inner.coefficients(step)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        direction, state = yield from steps(self.inner.direction(param, grad, state, c))
        agrees = (direction * grad > 0).to(grad.dtype)
        share = yield Mean(agrees)
        return direction * agrees / torch.clamp(share, min=1e-3), state

    def apply(self, param: Tensor, direction: Tensor, c: Any) -> Any:
        return self.inner.apply(param, direction, c)


@dataclass(frozen=True, kw_only=True)
class Adafactor(Rule, scope="tensor"):
    """Shazeer & Stern 2018, arXiv:1804.04235, as torch.optim.Adafactor: rounds of reductions, and state by shape."""

    lr: float = hyper(1e-2, ">= 0", symbol="ρ", doc="relative step")
    decay: float = hyper(0.8, "[0, 1)", symbol="τ", doc="exponent of the decay")
    floor: float = hyper(1e-3, "> 0", symbol="ε₂", doc="least scale of a parameter")
    clip: float = hyper(1.0, "> 0", symbol="d", doc="clipping threshold")

    class State:
        rows = like_param(unit="g²", key="row_var", without_dim=-1, when=lambda rule, shape: len(shape) > 1)
        columns = like_param(unit="g²", key="col_var", without_dim=-2, when=lambda rule, shape: len(shape) > 1)
        v = like_param(unit="g²", key="variance", when=lambda rule, shape: len(shape) < 2)

    def coefficients(self, step: int) -> Any:
        lr = min(self.lr, 1 / math.sqrt(step))
        return row(lr=lr, fresh=step**-self.decay, floor=self.floor, clip=self.clip)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> Generator[Any, Any, Any]:
        tiny = torch.finfo(grad.dtype).eps
        if grad.dim() > 1:
            rows = yield Mean(grad * grad, dim=-1)
            columns = yield Mean(grad * grad, dim=-2)
            rows = torch.lerp(state.rows, rows, c.fresh)
            columns = torch.lerp(state.columns, columns, c.fresh)
            mean = yield Mean(rows, dim=-1)
            state = state._replace(rows=rows, columns=columns)
            estimate = rows.unsqueeze(-1) * columns.unsqueeze(-2) / mean[..., None, None].clamp(min=tiny**2)
        else:
            estimate = torch.lerp(state.v, grad * grad, c.fresh)
            state = state._replace(v=estimate)
        update = grad / estimate.clamp(min=tiny**2).sqrt()
        square = yield Mean(update * update)
        return update / torch.clamp(square.sqrt() / c.clip, min=1.0), state

    def apply(self, param: Tensor, direction: Tensor, c: Any) -> Generator[Any, Any, Any]:
        square = yield Mean(param * param)
        return param - c.lr * torch.clamp(square.sqrt(), min=c.floor) * direction


def test_clipping_by_the_global_norm_wraps_any_rule() -> None:
    found = run(Clip(inner=SGD(lr=0.05, momentum=0.9, weight_decay=0.01), max_norm=0.7))
    params = [param.requires_grad_() for param in parameters(torch.float64)]
    optimizer = torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=0.01)
    for grads in gradients(20, torch.float64):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        assert torch.nn.utils.clip_grad_norm_(params, 0.7) > 0.7
        optimizer.step()
    for param, one in zip(params, found, strict=True):
        torch.testing.assert_close(one, param.detach(), rtol=1e-12, atol=1e-14)


def test_cautious_masks_the_direction_before_learning_rate_and_decay() -> None:
    rule = Cautious(inner=Adam(lr=0.01))
    param, grad = parameters(torch.float64)[0], gradients(1, torch.float64)[0][0]
    state = rule.init(param)._replace(m=-grad * torch.rand_like(grad) * (torch.rand_like(grad) > 0.5))
    ((inner, _),) = loop.update([loop.Item(Program(rule.inner), param, grad, state, rule.coefficients(5))])
    ((found, _),) = loop.update([loop.Item(Program(rule), param, grad, state, rule.coefficients(5))])
    agrees = (param - inner) * grad > 0
    assert 0 < agrees.sum() < grad.numel()
    expected = torch.where(agrees, (param - inner) / agrees.double().mean(), 0.0)
    torch.testing.assert_close(param - found, expected, rtol=1e-9, atol=1e-12)


def test_adafactor_agrees_with_torch() -> None:
    found = run(Adafactor())
    params = [param.requires_grad_() for param in parameters(torch.float64)]
    optimizer = torch.optim.Adafactor(params, lr=0.01, weight_decay=0.0, foreach=False)
    for grads in gradients(20, torch.float64):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        optimizer.step()
    for param, one in zip(params, found, strict=True):
        torch.testing.assert_close(one, param.detach(), rtol=1e-9, atol=1e-12)


def test_a_reduction_over_the_model_must_be_asked_for_by_all_in_one_round() -> None:
    clip = Clip(inner=SGD())
    param = torch.ones(2)
    items = [
        loop.Item(Program(rule), param, param, rule.init(param), rule.coefficients(1))
        for rule in (clip, Cautious(inner=Adam()))
    ]
    with pytest.raises(AssertionError, match="by all tensors in one round"):
        list(loop.update(items))
