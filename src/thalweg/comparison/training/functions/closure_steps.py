"""Steps with closures: the step of any optimizer takes one, and evaluations are counted as steps."""

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch

from thalweg.optim import RuleOptimizer


def accept_closures(optimizer: torch.optim.Optimizer) -> None:
    """Make the step of an optimizer take a closure, and count the evaluations of one that calls it several times.

    After a step that called its closure n times, the next n - 1 steps do nothing and return its loss. So a loop
    evaluates as often as with any other contender.

    Args:
        optimizer: The optimizer that a training function gets. Its ``step`` is replaced.
    """
    if isinstance(optimizer, RuleOptimizer) and optimizer.rule.traits.needs == "closure":
        optimizer.step = MethodType(_counted(type(optimizer).step), optimizer)  # type: ignore[method-assign]
    elif not _takes_closure(optimizer.step):
        optimizer.step = MethodType(_with_closure(type(optimizer).step), optimizer)  # type: ignore[method-assign]


def _takes_closure(step: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(step).parameters.values()
    except (TypeError, ValueError):
        return True
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(parameter.name == "closure" or parameter.kind in kinds for parameter in parameters)


def _with_closure(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that computes the gradients by a closure first, as torch's optimizers do."""

    def with_closure(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        step(self)
        return loss

    return with_closure


def _counted(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that counts the calls of its closure as steps."""
    ahead, last_loss = 0, None

    def counted(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        nonlocal ahead, last_loss
        if ahead > 0:
            ahead -= 1
            return last_loss
        calls = 0

        def counting() -> Any:
            nonlocal calls
            calls += 1
            assert closure is not None
            return closure()

        last_loss = step(self, None if closure is None else counting)
        ahead = max(0, calls - 1)
        return last_loss

    return counted
