"""Patterns of gradients: parameters that join late, rest, are frozen or have another learning rate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import rules

SIZES = (3, 2, 4)


TARGETS = (3.0, -2.0, 5.0)


ALL = (0, 1, 2)


def targets() -> list[Tensor]:
    """Return where the gradients vanish: for each parameter, near its number in TARGETS."""
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.rand(size, generator=generator, dtype=torch.float64) for size in SIZES]
    return [target * (1 + part) for target, part in zip(TARGETS, drawn, strict=True)]


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [nn.Parameter(torch.full((size,), 0.1, dtype=dtype)) for size in SIZES]


@dataclass(frozen=True)
class Pattern:
    """The parameters that have a gradient in a step, and the learning rate of each parameter, which is a group.

    Attributes:
        present: The numbers of the parameters with a gradient, of the step from 0.
        lrs: The factor of the learning rate of each parameter, of the step from 0.
        steps: The number of steps.
    """

    present: Callable[[int], Sequence[int]] = lambda step: ALL
    lrs: Callable[[int], Sequence[float]] = lambda step: (1.0, 1.0, 1.0)
    steps: int = 22


PATTERNS = {
    "all": Pattern(),
    "late": Pattern(lambda step: ALL if step >= 5 else (0, 1)),
    "late, when the others have arrived": Pattern(lambda step: ALL if step >= 13 else (0, 1)),
    "frozen from the start": Pattern(lambda step: (1, 2)),
    "frozen later": Pattern(lambda step: ALL if step < 10 else (0, 2)),
    "every other step": Pattern(lambda step: ((0, 1), (1, 2))[step % 2]),
    "never together": Pattern(lambda step: (step % 3,)),
    "steps without any gradient": Pattern(lambda step: () if step in (0, 7, 8) else ALL),
    "a group at 0": Pattern(lrs=lambda step: (1.0, 0.0, 1.0)),
    "a group at 0 at first": Pattern(lrs=lambda step: (1.0, 0.0 if step < 6 else 1.0, 1.0)),
    "the highest group at 0, and resting": Pattern(
        lambda step: ALL if step % 4 else (1, 2), lrs=lambda step: (0.0, 1.0, 1.0)
    ),
    "a group at 0 for a while": Pattern(lrs=lambda step: (1.0, 0.0 if 5 <= step < 12 else 1.0, 1.0)),
    "all at 0 at first": Pattern(lrs=lambda step: (min(1.0, step / 4),) * 3),
}


def run(
    make: Callable[[Any], torch.optim.Optimizer],
    pattern: Pattern,
    params: list[Tensor],
    *,
    steps: range | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    units: Sequence[float] = (1.0, 1.0, 1.0),
) -> torch.optim.Optimizer:
    """Train parameters, each in a group; parameter k is in units `units[k]` times as large."""
    optimizer = optimizer or make([{"params": [param]} for param in params])
    initial = [group.setdefault("first_lr", group["lr"]) for group in optimizer.param_groups]
    for step in steps or range(pattern.steps):
        for k, (param, target) in enumerate(zip(params, targets(), strict=True)):
            optimizer.param_groups[k]["lr"] = initial[k] * pattern.lrs(step)[k]
            param.grad = None
            if k in pattern.present(step):
                whole = param.detach() * units[k] - target.to(param.dtype)
                param.grad = units[k] * (torch.tanh(whole) + 0.1 * math.sin(step + k))
        optimizer.step()
    return optimizer


# --- every rule with values of the whole model ------------------------------------------------------------------------

MODEL_WIDE = {
    "Prodigy": rules.Prodigy(d0=0.01),
    "DAdaptAdam": rules.DAdaptAdam(d0=0.01),
    "DAdaptSGD": rules.DAdaptSGD(d0=0.01),
    "DoG": rules.DoG(reps_rel=0.01),
    "DoWG": rules.DoWG(eps=0.01),
    "Mechanic": rules.Mechanic(rules.AdamW(lr=0.05), s_init=0.1),
    "an average around it": rules.MovingAverage(rules.DAdaptAdam(d0=0.01), average_decay=0.8),
    "clipped": rules.Clip(rules.Prodigy(d0=0.01), max_norm=0.7),
    "restarted": rules.WarmRestarts(rules.Prodigy(d0=0.01), period=6, stretch=1),
    "split": rules.Split(rules.Prodigy(d0=0.01), row_blocks=1),
}
