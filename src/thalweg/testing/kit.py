"""Kit: what the checks work with. Parameters and gradients are drawn from stated seeds, always the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Factory = Callable[[Any], torch.optim.Optimizer]

SHAPES: tuple[tuple[int, ...], ...] = ((5, 3), (4, 3, 3, 3), (7,))


class RefusedError(Exception):
    """The optimizer said clearly that it does not do this."""


class SkippedError(Exception):
    """There is nothing to check."""


@dataclass(frozen=True)
class Kit:
    """What a check works with."""

    factory: Factory
    reference: Factory | None
    tolerance: float
    variants: dict[str, Factory]
    shapes: tuple[tuple[int, ...], ...]

    def params(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Fresh parameters, always the same."""
        generator = torch.Generator().manual_seed(1)
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes]
        return [param.to(dtype).requires_grad_() for param in drawn]

    def made(self, params: Any, factory: Factory | None = None) -> torch.optim.Optimizer:
        """An optimizer for these parameters, ready to train."""
        return ready((factory or self.factory)(params))


def ready(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, told that it trains if it wants to be, as schedule-free ones do."""
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def gradients(params: Sequence[Tensor], step: int) -> list[Tensor]:
    """Gradients for these parameters at a step, always the same, none of them zero on average."""
    generator = torch.Generator().manual_seed(100 + step)
    return [
        (torch.randn(param.shape, generator=generator, dtype=torch.float64) + 0.3).to(param.dtype) for param in params
    ]


def train(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], steps: range) -> None:
    """Take these steps."""
    for step in steps:
        for param, grad in zip(params, gradients(params, step), strict=True):
            param.grad = grad
        optimizer.step()


def copied(params: Sequence[Tensor]) -> list[Tensor]:
    """Parameters of their own with the same values."""
    return [param.detach().clone().requires_grad_() for param in params]


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    """Fail unless tensors are the same to the last bit; `what` says in the message what they are."""
    for one, other in zip(found, expected, strict=True):
        if not torch.equal(one, other):
            worst = float((one.detach() - other.detach()).abs().max())
            raise AssertionError(f"{what}: off by {worst:.3g} for shape {tuple(one.shape)}")


def put(optimizer: torch.optim.Optimizer, **settings: Any) -> None:
    """Write settings into all groups; those that an optimizer does not have are left out."""
    for group in optimizer.param_groups:
        group.update({key: value for key, value in settings.items() if key in group})
