"""Search line: the steps of all lengths along one direction, for rules that try several before they take one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import unaliased
from thalweg.engine.eager import loop
from thalweg.engine.eager.loop import TensorStep
from thalweg.rules import Max, Sum
from thalweg.rules.core.reductions import Reduction


class SearchLine:
    """The line through parameters along the direction of a rule. A length is a factor of the learning rate.

    The constructor writes the new state of the rule, which depends on the direction alone. The parameters move only by
    ``move_to``, ``commit`` and ``rollback``.

    Args:
        items: The step of each parameter.
    """

    def __init__(self, items: Sequence[TensorStep]) -> None:
        # Copies, since the parameters will move and a closure may write gradients in place.
        self._items = [item._replace(param=item.param.clone(), grad=item.grad.clone()) for item in items]
        self._params = [item.param for item in items]
        self._directions: list[Tensor] = []
        for item, (direction, state) in zip(items, loop.directions(self._items), strict=True):
            self._directions.append(direction)
            for target, result in zip(item.state, unaliased(state, item.state), strict=True):
                target.copy_(result)

    def descent(self) -> float:
        """Return the inner product of direction and gradient: the rate at which the loss falls at the start."""
        grads = self._descent_gradients([item.grad for item in self._items])
        return self._reduce(Sum, [d * grad for d, grad in zip(self._directions, grads, strict=True)])

    def slope(self, grads: Sequence[Tensor | None]) -> float:
        """Return the derivative of the loss by the length; of its negative, if the loss is maximized.

        Args:
            grads: The gradients at a point of the line, one for each item; None for zero.
        """
        filled = [
            torch.zeros_like(param) if grad is None else grad for param, grad in zip(self._params, grads, strict=True)
        ]
        steps = zip(self._items, self._directions, self._descent_gradients(filled), strict=True)
        return -self._reduce(Sum, [item.coefficients.lr * d * grad for item, d, grad in steps])

    def max_change(self) -> float:
        """Return the largest change of any number by a step of length 1."""
        steps = zip(self._items, self._directions, strict=True)
        return self._reduce(Max, [(item.coefficients.lr * d).abs() for item, d in steps])

    def move_to(self, length: float) -> None:
        """Move the parameters to the end of a step of this length from the start of the line."""
        self._move_to(length)

    def _move_to(self, length: float) -> list[tuple[Tensor, Any]]:
        """Move the parameters; return the new parameter and state of each."""
        generators = []
        for item, direction in zip(self._items, self._directions, strict=True):
            c = item.coefficients._replace(lr=item.coefficients.lr * length)
            index = loop.element_index(item)
            generators.append(item.program.apply(item.param, direction, item.state, c, index))
        results: list[tuple[Tensor, Any]] = loop.run_in_lockstep(generators, [item.shards for item in self._items])
        for param, (result, _) in zip(self._params, results, strict=True):
            param.copy_(result)
        return results

    def commit(self, length: float) -> None:
        """Take the step of this length: move the parameters, and write the state that follows from the step."""
        results = self._move_to(length)
        for item, (_, state) in zip(self._items, results, strict=True):
            for target, result in zip(item.state, unaliased(state, item.state), strict=True):
                if result is not target:
                    target.copy_(result)

    def rollback(self) -> None:
        """Move the parameters back to the start of the line."""
        for param, item in zip(self._params, self._items, strict=True):
            param.copy_(item.param)

    def _descent_gradients(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Return gradients as the rule sees them."""
        return [
            item.program.descent_gradient(grad, direction.dtype)
            for item, direction, grad in zip(self._items, self._directions, grads, strict=True)
        ]

    def _reduce(self, kind: type[Reduction], tensors: Sequence[Tensor]) -> float:
        return reduce_over_items(kind, tensors, self._items)


def reduce_over_items(kind: type[Reduction], tensors: Sequence[Tensor], items: Sequence[TensorStep]) -> float:
    """Reduce tensors over the whole model.

    Args:
        kind: ``Sum``, ``Mean``, ``Norm`` or ``Max``.
        tensors: A tensor for each item.
        items: The items; they tell how each tensor is spread over processes.

    Returns:
        The result; 0 if there are no tensors.
    """
    requests: dict[int, Reduction] = {k: kind(tensor, over="model") for k, tensor in enumerate(tensors)}
    return float(loop.reduce_over_model(requests, [item.shards for item in items])[0]) if requests else 0.0
