"""Cases of wrappers: every setting differs from its default, beside hooks around an optimizer of torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from cases.references import estimating, matrices, wrapping
from cases.rules import SHAPES, Shapes, gradients, parameters
from thalweg import optim, rules

NUM_STEPS = 24
RANDOM_GRADIENTS = cache(partial(gradients, NUM_STEPS, torch.float64))
ADAM = rules.Adam(lr=0.05, beta1=0.8, beta2=0.95, eps=1e-2)
ADAMW = rules.AdamW(lr=0.05, beta1=0.8, beta2=0.95, eps=1e-2, weight_decay=0.3)
SGD = rules.SGD(lr=0.05, momentum=0.8)


def gradients_at(step: int, params: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients at these parameters at step 1, 2, ..."""
    drawn = zip(RANDOM_GRADIENTS(tuple(tuple(param.shape) for param in params))[step - 1], params, strict=True)
    return [(grad + torch.sin(3 * param)).to(param.dtype) for grad, param in drawn]


def train(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: range = range(1, NUM_STEPS + 1)) -> None:
    """Take these steps, with closures."""
    for step in steps:
        optimizer.step(
            lambda step=step: wrapping.set_gradients(params, gradients_at(step, [param.detach() for param in params]))
        )


def make_optimizer(rule: rules.Rule, params: Any, **settings: Any) -> Any:
    """Return the optimizer of a rule."""
    return optim.optimizer_for(rule)(params, **settings)


def final_parameters(
    rule: rules.Rule, dtype: torch.dtype = torch.float64, shapes: Shapes = SHAPES, **settings: Any
) -> Tensor:
    """Return the parameters after the training, and the eval parameters if there are any, as one vector."""
    params = parameters(dtype, shapes)
    optimizer = make_optimizer(rule, params, **settings)
    train(optimizer, params)
    trained = [param.clone() for param in params]
    with optimizer.evaluating():
        return flatten(trained + (params if rule.traits.has_eval_params else []))


def flatten(tensors: Any) -> Tensor:
    """Return all elements of all tensors in one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def adam(s: Any, params: list[Tensor], kind: Any = torch.optim.Adam, **settings: Any) -> torch.optim.Optimizer:
    return kind(params, lr=s.lr, betas=(s.beta1, s.beta2), eps=s.eps, **settings)


def sgd(s: Any, params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=s.lr, momentum=s.momentum)


def penalized(s: Any, params: list[Tensor]) -> torch.optim.Optimizer:
    return adam(s, params, weight_decay=s.weight_decay)


def decoupled(s: Any, params: list[Tensor]) -> torch.optim.Optimizer:
    return adam(s, params, torch.optim.AdamW, weight_decay=s.weight_decay / getattr(s, "reference_lr", 1))


def galore(s: Any, params: list[Tensor]) -> torch.optim.Optimizer:
    return adam(s, params, matrices.GaLoreAdam, rank=s.rank, update_gap=s.update_gap, scale=s.scale)


def mechanic(s: Any, params: list[Tensor]) -> torch.optim.Optimizer:
    inner = {"lr": s.lr, "inner_betas": (s.beta1, s.beta2), "inner_eps": s.eps, "weight_decay": s.weight_decay}
    return estimating.MechanicAdamW(params, **inner, s_init=s.s_init, s_decay=s.s_decay, eps=s.mechanic_eps)


def mechanic_sgd(s: Any, params: list[Tensor]) -> torch.optim.Optimizer:
    tuner = {"s_init": s.s_init, "s_decay": s.s_decay, "eps": s.mechanic_eps}
    return estimating.MechanicSGD(params, lr=s.lr, momentum=s.momentum, **tuner)


def split(s: Any, params: list[Tensor]) -> torch.optim.Optimizer:
    """Each group of rows is a parameter, whose gradient is clipped alone."""
    return torch.optim.SGD(
        [rows for param in params for rows in param.chunk(s.row_blocks)], lr=s.lr, momentum=s.momentum
    )


def by_rows(s: Any, params: list[Tensor], inner: torch.optim.Optimizer) -> dict[str, Any]:
    row_groups = inner.param_groups[0]["params"]

    def before(t: int) -> None:
        wrapping.set_gradients(row_groups, [rows for param in params for rows in param.grad.chunk(s.row_blocks)])
        wrapping.clip_norm(s, row_groups, inner)["before"](t)

    return {"before": before}


@dataclass(frozen=True)
class Case:
    """A wrapper around a rule, an optimizer of torch for the inner rule, and hooks for the wrapper."""

    rule: rules.Wrapper
    inner: Callable[[Any, list[Tensor]], torch.optim.Optimizer]
    hooks: Callable[..., dict[str, Any]] = wrapping.nothing
    shapes: Shapes = SHAPES

    def __str__(self) -> str:
        return self.rule.name

    @torch.no_grad()
    def reference(self, rule: rules.Rule) -> Tensor:
        """Return the expected `final_parameters(rule)`."""
        params, s = parameters(torch.float64, self.shapes), SimpleNamespace(**rule.settings())
        inner = self.inner(s, params)
        hooks = self.hooks(s, params, inner)
        for t in range(1, NUM_STEPS + 1):
            wrapping.set_gradients(params, gradients_at(t, params))
            hooks.get("before", lambda t: None)(t)
            old = [param.clone() for param in params]
            inner.step()
            hooks.get("after", lambda t, old: None)(t, old)
        return flatten(params + list(hooks.get("eval_params", [])))


CASES = [
    Case(rules.ASAM(SGD, rho=0.4, offset=0.3), sgd, wrapping.asam(gradients_at)),
    Case(rules.SAM(ADAM, rho=0.2), adam, wrapping.sam(gradients_at)),
    Case(rules.Cautious(ADAMW), decoupled, wrapping.cautious),
    Case(rules.CautiousDecay(ADAM, weight_decay=0.3), adam, wrapping.cautious_decay),
    Case(rules.Centralized(SGD), sgd, wrapping.centralized),
    Case(rules.Clip(SGD, max_norm=15.0), sgd, wrapping.clip),
    Case(rules.ClipAdaptive(SGD, clipping=1.0, least_norm=1.5), sgd, wrapping.clip_adaptive),
    Case(rules.ClipNorm(SGD, max_tensor_norm=3.5), sgd, wrapping.clip_norm),
    Case(rules.ClipValue(ADAM, max_value=0.6), adam, wrapping.clip_value),
    Case(rules.ClipWeights(ADAM, largest=0.6), adam, wrapping.clip_weights),
    Case(rules.CoupledDecay(ADAM, weight_decay=0.3), penalized),
    Case(rules.DecoupledDecay(ADAM, weight_decay=0.3), decoupled),
    Case(rules.FixedNorms(ADAM), adam, wrapping.fixed_norms),
    Case(rules.FullyDecoupledDecay(ADAM, weight_decay=0.03, reference_lr=0.1), decoupled),
    Case(rules.GaLore(ADAM, rank=2, update_gap=7, scale=0.6), galore),
    Case(rules.Grokfast(ADAM, slow_decay=0.7, gain=1.5), adam, wrapping.grokfast),
    Case(rules.Lookahead(ADAM, every=4, slow_step=0.6), adam, wrapping.lookahead),
    Case(rules.Mars(ADAM, gamma=0.1), adam, wrapping.mars),
    Case(  # gradients so small that Mars scales few of them down
        rules.ClipNorm(rules.Mars(ADAM, gamma=0.1), max_tensor_norm=0.9),
        adam,
        wrapping.chain(wrapping.clip_norm, wrapping.mars),
    ),
    Case(rules.Mechanic(ADAMW, s_init=0.5, s_decay=0.3, mechanic_eps=0.2), mechanic),
    Case(rules.Mechanic(SGD, s_init=0.02, s_decay=0.1, mechanic_eps=0.5), mechanic_sgd),
    Case(rules.MovingAverage(ADAM, average_decay=0.8), adam, wrapping.moving_average),
    Case(rules.Noisy(ADAM, noise=0.5, fading=0.6), adam, wrapping.noisy),
    Case(rules.Orthogonalized(ADAM), adam, wrapping.orthogonalized),
    Case(rules.PolyakAverage(ADAM, start=7), adam, wrapping.polyak_average),
    Case(
        rules.Split(rules.ClipNorm(SGD, max_tensor_norm=3.5), row_blocks=2), split, by_rows, ((6, 3), (12, 2, 2), (6,))
    ),
    Case(rules.WarmRestarts(ADAM, period=4, stretch=3, lr_min=0.01), adam, wrapping.warm_restarts),
]
