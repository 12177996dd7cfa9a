"""Fixtures: what the checks work with. Parameters and gradients come from fixed seeds, so they are always the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]
"""A function from parameters (or named parameters, or groups) to an optimizer, always at the same settings."""

SHAPES: tuple[tuple[int, ...], ...] = ((5, 3), (4, 3, 3, 3), (7,))


class RefusedError(Exception):
    """The optimizer refused with a clear error."""


class SkippedError(Exception):
    """The check does not apply to this optimizer."""


@dataclass(frozen=True)
class Subject:
    """The optimizer under test, and what a check compares it with."""

    factory: OptimizerFactory
    reference: OptimizerFactory | None
    tolerance: float
    variants: dict[str, OptimizerFactory]
    shapes: tuple[tuple[int, ...], ...]

    def params(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Return fresh parameters with the same values at each call."""
        generator = torch.Generator().manual_seed(1)
        values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes]
        return [value.to(dtype).requires_grad_() for value in values]

    def optimizer(self, params: Any, factory: OptimizerFactory | None = None) -> torch.optim.Optimizer:
        """Make an optimizer for these parameters, in training mode."""
        return set_train_mode((factory or self.factory)(params))


def set_train_mode(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Call ``optimizer.train()`` if there is such a method, as schedule-free optimizers require."""
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()  # type: ignore[attr-defined]  # not a method of torch's base class
    return optimizer


def set_eval_mode(optimizer: torch.optim.Optimizer) -> None:
    """Call ``optimizer.eval()`` if there is such a method."""
    if callable(getattr(optimizer, "eval", None)):
        optimizer.eval()  # type: ignore[attr-defined]  # not a method of torch's base class


def make_gradients(params: Sequence[Tensor], step: int) -> list[Tensor]:
    """Return the gradients of a step, the same at each call; their mean is not zero."""
    generator = torch.Generator().manual_seed(100 + step)
    return [
        (torch.randn(param.shape, generator=generator, dtype=torch.float64) + 0.3).to(param.dtype) for param in params
    ]


def set_gradients(params: Sequence[Tensor], step: int) -> None:
    """Give the parameters the gradients of a step."""
    for param, grad in zip(params, make_gradients(params, step), strict=True):
        param.grad = grad


def train(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], steps: range) -> None:
    """Take the steps with these numbers."""
    for step in steps:
        set_gradients(params, step)
        optimizer.step()


def clone_params(params: Sequence[Tensor]) -> list[Tensor]:
    """Return new parameters with the same values."""
    return [param.detach().clone().requires_grad_() for param in params]


def assert_identical(actual: Sequence[Tensor], expected: Sequence[Tensor], description: str) -> None:
    """Fail unless the tensors are equal to the last bit. The message starts with the description of the tensors."""
    for tensor, expected_tensor in zip(actual, expected, strict=True):
        if not torch.equal(tensor, expected_tensor):
            difference = float((tensor.detach() - expected_tensor.detach()).abs().max())
            raise AssertionError(f"{description}: off by {difference:.3g} for shape {tuple(tensor.shape)}")


def set_in_groups(optimizer: torch.optim.Optimizer, **settings: Any) -> None:
    """Write settings into all parameter groups, except those that a group does not have."""
    for group in optimizer.param_groups:
        group.update({key: value for key, value in settings.items() if key in group})
