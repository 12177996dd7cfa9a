"""Line: the steps of all lengths that one direction allows, for rules that try several before they take one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.engine.core.batch import unaliased
from thalweg.engine.eager import loop
from thalweg.engine.eager.loop import Item
from thalweg.rules import Max, Sum
from thalweg.rules.core.reductions import Reduction


class SearchLine:
    """The line through parameters along which a rule would step. A length is a factor of the learning rate.

    To make one takes the new state of the rule, which depends on the direction alone; parameters move by `move_to`.
    """

    def __init__(self, items: Sequence[Item]) -> None:
        # Copies, for the parameters will move, and a closure may write gradients in place.
        self._items = [item._replace(param=item.param.clone(), grad=item.grad.clone()) for item in items]
        self._params = [item.param for item in items]
        self._directions: list[Tensor] = []
        for item, (direction, state) in zip(items, loop.directions(self._items), strict=True):
            self._directions.append(direction)
            for kept, made in zip(item.state, unaliased(state, item.state), strict=True):
                kept.copy_(made)

    def descent(self) -> float:
        """By how much the loss falls for a unit along the direction, at first: the inner product with the gradient."""
        grads = [item.grad for item in self._items]
        return self._over(Sum, [d * grad for d, grad in zip(self._directions, self._seen(grads), strict=True)])

    def slope(self, grads: Sequence[Tensor | None]) -> float:
        """The derivative of the loss (of its negative, where it is maximized) by the length, given gradients there."""
        known = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(self._params, grads, strict=True)]
        steps = zip(self._items, self._directions, self._seen(known), strict=True)
        return -self._over(Sum, [item.coefficients.lr * d * grad for item, d, grad in steps])

    def max_change(self) -> float:
        """The largest change of a single number by a step of length 1."""
        steps = zip(self._items, self._directions, strict=True)
        return self._over(Max, [(item.coefficients.lr * d).abs() for item, d in steps])

    def move_to(self, length: float) -> None:
        """Put the parameters where a step of this length leads."""
        asking = []
        for item, direction in zip(self._items, self._directions, strict=True):
            c = item.coefficients._replace(lr=item.coefficients.lr * length)
            index = loop.element_index(item)
            asking.append(item.program.apply(item.param, direction, item.state, c, index))
        self._there = loop.run_in_lockstep(asking, [item.shards for item in self._items])
        for param, (made, _) in zip(self._params, self._there, strict=True):
            param.copy_(made)

    def commit(self, length: float) -> None:
        """Go there for good: what the rule and the rounding remember of the step is taken too."""
        self.move_to(length)
        for item, (_, state) in zip(self._items, self._there, strict=True):
            for kept, made in zip(item.state, unaliased(state, item.state), strict=True):
                if made is not kept:
                    kept.copy_(made)

    def rollback(self) -> None:
        """Put the parameters back where the line begins."""
        for param, item in zip(self._params, self._items, strict=True):
            param.copy_(item.param)

    def _seen(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Gradients as the rule sees them."""
        return [
            item.program.seen(grad, direction.dtype)
            for item, direction, grad in zip(self._items, self._directions, grads, strict=True)
        ]

    def _over(self, kind: type[Reduction], tensors: Sequence[Tensor]) -> float:
        return reduce_over_items(kind, tensors, self._items)


def reduce_over_items(kind: type[Reduction], tensors: Sequence[Tensor], items: Sequence[Item]) -> float:
    """A reduction of a tensor for each item, over the whole model."""
    asked = {k: kind(tensor, over="model") for k, tensor in enumerate(tensors)}
    return float(loop.reduce_over_model(asked, [item.shards for item in items])[0]) if asked else 0.0
