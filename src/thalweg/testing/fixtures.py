"""Fixtures: what the checks work with. Parameters and gradients come from fixed seeds, so they are always the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]
"""A function from parameters (or named parameters, or groups) to an optimizer, always at the same settings."""

Calling = Literal["step()", "step(closure)", "closure(), then step(closure)"]
"""How a step is taken. Optimizers that perturb parameters differ: some need the first gradient before the step."""

SHAPES: tuple[tuple[int, ...], ...] = ((5, 3), (4, 3, 3, 3), (7,))


class RefusedError(Exception):
    """The optimizer refused with a clear error."""


class SkippedError(Exception):
    """The check does not apply to this optimizer."""


@dataclass(frozen=True)
class Subject:
    """The optimizer under test, what a check compares it with, and how a step of it is taken."""

    factory: OptimizerFactory
    reference: OptimizerFactory | None
    tolerance: float
    variants: dict[str, OptimizerFactory]
    shapes: tuple[tuple[int, ...], ...]
    calling: Calling = "step()"
    device: torch.device = torch.device("cpu")

    def params(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Return fresh parameters with the same values at each call."""
        generator = torch.Generator().manual_seed(1)
        values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes]
        return [value.to(dtype).to(self.device).requires_grad_() for value in values]

    def require_cpu(self, reason: str) -> None:
        """Skip a check that makes no sense on another device."""
        if self.device.type != "cpu":
            raise SkippedError(f"on {self.device.type}, {reason}")

    def optimizer(self, params: Any, factory: OptimizerFactory | None = None) -> torch.optim.Optimizer:
        """Make an optimizer for these parameters, in training mode."""
        return set_train_mode((factory or self.factory)(params))

    def step(self, optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> None:
        """Take a step with the gradients that are set, through a closure if the optimizer needs one."""
        if self.calling == "step()":
            optimizer.step()
            return
        grads = [None if param.grad is None else param.grad.clone() for param in params]

        def closure() -> Tensor:
            loss = torch.zeros((), device=self.device)
            for param, grad in zip(params, grads, strict=True):
                param.grad = None if grad is None else grad.clone()
                if grad is not None:
                    loss = loss + (param.detach() * grad).real.sum()  # the loss that has this gradient everywhere
            return loss

        self.step_with(optimizer, params, closure)

    def step_with(self, optimizer: torch.optim.Optimizer, params: Sequence[Tensor], closure: Callable[[], Any]) -> Any:
        """Take a step with a closure, which is called before it if the optimizer needs gradients by then."""
        for param in params:
            param.grad = None
        if self.calling == "closure(), then step(closure)":
            closure()
        return optimizer.step(closure)

    def train(self, optimizer: torch.optim.Optimizer, params: Sequence[Tensor], steps: range) -> None:
        """Take the steps with these numbers."""
        for step in steps:
            set_gradients(params, step)
            self.step(optimizer, params)


def set_train_mode(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Call ``optimizer.train()`` if there is such a method, as schedule-free optimizers require."""
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()  # type: ignore[attr-defined]  # not a method of torch's base class
    return optimizer


def make_gradients(params: Sequence[Tensor], step: int) -> list[Tensor]:
    """Return the gradients of a step, the same at each call; their mean is not zero."""
    generator = torch.Generator().manual_seed(100 + step)
    return [
        (torch.randn(param.shape, generator=generator, dtype=torch.float64) + 0.3).to(param.dtype).to(param.device)
        for param in params
    ]


def set_gradients(params: Sequence[Tensor], step: int) -> None:
    """Give the parameters the gradients of a step."""
    for param, grad in zip(params, make_gradients(params, step), strict=True):
        param.grad = grad


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
