"""Every rule with every argument away from its default, and torch's own optimizer of the same settings."""

from dataclasses import dataclass
from typing import Any

import torch

from thalweg import optim, rules


@dataclass(frozen=True)
class Case:
    """`ours` and `theirs` take the same keywords."""

    ours: type[optim.RuleOptimizer]
    theirs: type[torch.optim.Optimizer]
    settings: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.ours.__name__}-{'-'.join(self.settings)}"

    @property
    def rule(self) -> rules.Rule:
        group = self.ours([torch.zeros(1)], **self.settings).param_groups[0]
        return optim.keywords.to_rule(self.ours.rule, group)


MOMENTS = {"lr": 0.01, "betas": (0.8, 0.97), "eps": 1e-3, "weight_decay": 0.05}
CASES = [
    Case(optim.SGD, torch.optim.SGD, {"lr": 0.05}),
    Case(optim.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.05}),
    Case(optim.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    Case(
        optim.AdaGrad,
        torch.optim.Adagrad,
        {"lr": 0.03, "lr_decay": 0.05, "weight_decay": 0.05, "initial_accumulator_value": 0.2, "eps": 1e-2},
    ),
    Case(optim.RMSprop, torch.optim.RMSprop, {"lr": 0.003, "alpha": 0.95, "eps": 1e-3, "weight_decay": 0.05}),
    Case(
        optim.RMSprop,
        torch.optim.RMSprop,
        {"lr": 0.003, "alpha": 0.95, "eps": 1e-3, "weight_decay": 0.05, "momentum": 0.7, "centered": True},
    ),
    Case(optim.Adam, torch.optim.Adam, MOMENTS),
    Case(optim.Adam, torch.optim.Adam, MOMENTS | {"amsgrad": True}),
    Case(optim.AdamW, torch.optim.AdamW, MOMENTS),
    Case(optim.AdamW, torch.optim.AdamW, MOMENTS | {"amsgrad": True}),
]

SHAPES = ((5, 3), (4, 3, 3, 3), (7,), ())


def parameters(dtype: torch.dtype) -> list[torch.Tensor]:
    """Parameters of several shapes, a convolution's and a single number among them."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


def gradients(steps: int, dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """A gradient for each parameter, at each step."""
    generator = torch.Generator().manual_seed(2)
    return [
        [(torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3).to(dtype) for shape in SHAPES]
        for _ in range(steps)
    ]


def change(optimizer: type[torch.optim.Optimizer], settings: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """How far 50 steps move the parameters, as one vector."""
    start = parameters(dtype)
    params = [param.clone().requires_grad_() for param in start]
    running = optimizer(params, **settings)
    for grads in gradients(50, dtype):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        running.step()
    return torch.cat([(param.detach() - at).flatten() for param, at in zip(params, start, strict=True)]).double()


def relative_error(found: torch.Tensor, reference: torch.Tensor) -> float:
    """‖Δ − Δref‖ / ‖Δref‖."""
    return float((found - reference).norm() / reference.norm())
