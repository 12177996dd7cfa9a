"""Search line: the steps of all lengths along one direction, for rules that try several before they take one."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.engine.core import threads
from thalweg.engine.core.batch import unaliased
from thalweg.engine.eager import loop
from thalweg.engine.eager.loop import TensorStep
from thalweg.rules import Sum
from thalweg.rules.core.reductions import RequestGenerator


def undisturbed(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast, whose products would lose digits, and with the threads of this process."""
    autocasts = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    if not autocasts and not threads.inherited_team:
        return nullcontext()
    contexts = ExitStack()
    if threads.inherited_team:
        contexts.enter_context(threads.one_thread())
    if autocasts:
        contexts.enter_context(torch.autocast(device.type, enabled=False))
    return contexts


def largest_abs(tensor: Tensor) -> float:
    """Return the largest absolute value in a tensor, not a number if one is none, 0 if the tensor is empty."""
    if not tensor.numel():
        return 0.0
    lowest, highest = torch.aminmax(tensor)
    return max(-float(lowest), float(highest))


class LineTensors(Protocol):
    """The tensors that move along a line: the parameters one by one, or all of them as one vector."""

    def run(self, generators: Sequence[RequestGenerator]) -> list[Any]:
        """Run a generator for each tensor, and return their results."""

    def product(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        """Return the inner product, over the whole model, of a tensor for each of these with another one."""

    def max_abs(self, tensors: Sequence[Tensor]) -> float:
        """Return the largest absolute value, over the whole model, in a tensor for each of these; 0 if none."""

    def write(self, values: Sequence[Tensor]) -> None:
        """Write new values to the parameters."""


class SeparateTensors:
    """The parameters one by one: the reference, for any parameters.

    Args:
        items: The step of each parameter.
    """

    def __init__(self, items: Sequence[TensorStep]) -> None:
        self._params = [item.param for item in items]
        self._shards = [item.shards for item in items]

    def run(self, generators: Sequence[RequestGenerator]) -> list[Any]:
        """Run a generator for each parameter, and return their results."""
        device = self._params[0].device if self._params else torch.device("cpu")
        with undisturbed(device):
            return loop.run_in_lockstep(generators, self._shards)

    def product(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        """Return the inner product, over the whole model, of a tensor for each parameter with another one."""
        requests: dict[int, Any] = {
            k: Sum(left * right, over="model") for k, (left, right) in enumerate(zip(first, second, strict=True))
        }
        return float(loop.reduce_over_model(requests, self._shards)[0]) if requests else 0.0

    def max_abs(self, tensors: Sequence[Tensor]) -> float:
        """Return the largest absolute value, over the whole model, in a tensor for each parameter; 0 if none."""
        return max(map(largest_abs, tensors), default=0.0)

    def write(self, values: Sequence[Tensor]) -> None:
        """Write new values to the parameters."""
        for param, value in zip(self._params, values, strict=True):
            param.copy_(value)


class SearchLine:
    """The line through parameters along the direction of a rule. A length is a factor of the learning rate.

    The constructor writes the new state of the rule, which depends on the direction alone. The parameters move only by
    ``move_to``, ``commit`` and ``rollback``.

    Args:
        items: The step of each tensor. Parameters and gradients must be copies, since the parameters will move and a
            closure may write gradients in place.
        tensors: The tensors that move.
    """

    def __init__(self, items: Sequence[TensorStep], tensors: LineTensors) -> None:
        self._items, self._tensors = items, tensors
        self._directions: list[Tensor] = []
        generators = [item.program.direction(item.param, item.grad, item.state, item.coefficients) for item in items]
        for item, (direction, state) in zip(items, tensors.run(generators), strict=True):
            self._directions.append(direction)
            _write_state(item, state)
        self._reached: tuple[float, list[tuple[Tensor, Any]]] | None = None  # the last length, and the results there

    def descent(self) -> float:
        """Return the inner product of direction and gradient: the rate at which the loss falls at the start."""
        return self._along([item.grad for item in self._items])

    def slope(self, grads: Sequence[Tensor]) -> float:
        """Return the derivative of the loss by the length; of its negative, if the loss is maximized.

        Args:
            grads: The gradients at a point of the line, one for each item.
        """
        return -self._lr * self._along(grads)

    def max_change(self) -> float:
        """Return the largest change of any number by a step of length 1."""
        return abs(self._lr) * self._tensors.max_abs(self._directions)

    @property
    def _lr(self) -> float:
        """The learning rate, which is one for all items."""
        return float(self._items[0].coefficients.lr) if self._items else 0.0

    def move_to(self, length: float) -> None:
        """Move the parameters to the end of a step of this length from the start of the line."""
        generators = []
        for item, direction in zip(self._items, self._directions, strict=True):
            c = item.coefficients._replace(lr=item.coefficients.lr * length)
            index = loop.element_index(item)
            generators.append(item.program.apply(item.param, direction, item.state, c, index))
        results = self._tensors.run(generators)
        self._tensors.write([param for param, _ in results])
        self._reached = length, results

    def commit(self, length: float) -> None:
        """Take the step of this length: move the parameters, and write the state that follows from the step."""
        if self._reached is None or self._reached[0] != length:
            self.move_to(length)
        assert self._reached is not None
        for item, (_, state) in zip(self._items, self._reached[1], strict=True):
            _write_state(item, state)

    def rollback(self) -> None:
        """Move the parameters back to the start of the line."""
        self._tensors.write([item.param for item in self._items])

    def _along(self, grads: Sequence[Tensor]) -> float:
        """Return the inner product of the direction with gradients, as the rule sees them."""
        seen = [
            item.program.descent_gradient(grad, direction.dtype)
            for item, direction, grad in zip(self._items, self._directions, grads, strict=True)
        ]
        return self._tensors.product(self._directions, seen)


def _write_state(item: TensorStep, state: Any) -> None:
    """Write a new state over that of an item. Tensors that are the item's own are there already."""
    if state is item.state:
        return
    for target, result in zip(item.state, unaliased(state, item.state), strict=True):
        if result is not target:
            target.copy_(result)
