"""Iterations: a step that is many, for rules that need a closure; each goes along a line as far as a search says.

The rule gives the direction (`engine.line`), `line_search` the length. This is the loop around both, and it ends where
torch.optim.LBFGS ends its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep
from thalweg.engine.eager.loop import TensorStep
from thalweg.engine.search_line import SearchLine, reduce_over_items
from thalweg.errors import ParameterError, SettingError
from thalweg.optim import keywords
from thalweg.optim.binding import Binding
from thalweg.optim.line_search import Point, strong_wolfe
from thalweg.rules import Max, Rule

Ready = Callable[[], list[tuple[Binding, BatchStep]]]


@dataclass(frozen=True)
class _Seen:
    """What the closure said of the parameters where they are: the loss as it is minimized, and the gradients."""

    returned: Any
    loss: float
    grads: Mapping[int, Tensor]  # by the position of the parameter in the optimizer; those that have one
    largest: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.largest)


def check_groups(rule: Rule, groups: Sequence[dict[str, Any]]) -> None:
    """Refuse groups that ask for different iterations, and parameters that have no inner product in one place."""
    wanted = [keywords.settings(rule, group) | {"maximize": group["maximize"]} for group in groups]
    # The learning rate too: the inverse Hessian is that of all parameters together, and of no part of them.
    for name, value in wanted[0].items():
        if other := [one[name] for one in wanted if one[name] != value]:
            raise SettingError(
                f"{rule.name}: all groups must have the same {name}, got {value!r} and {other[0]!r}. "
                "Put the parameters into one group; those that are to rest need no gradient."
            )
    params = [param for group in groups for param in group["params"]]
    if len(devices := {str(param.device) for param in params}) > 1:
        raise ParameterError(
            f"{rule.name}: all parameters must be on one device, got {' and '.join(sorted(devices))}. "
            "Move the model to one of them first."
        )
    if sharded := [param for param in params if hasattr(param, "to_local")]:
        raise ParameterError(
            f"{rule.name}: parameters must not be sharded, got a DTensor of shape {tuple(sharded[0].shape)}. "
            "Use an elementwise rule, AdamW say."
        )


class _Closure:
    """The user's closure, and how often it was called."""

    def __init__(self, rule: Any, maximize: bool, closure: Callable[[], Any], ready: Ready) -> None:
        self._rule, self._maximize, self._closure, self._ready = rule, maximize, closure, ready
        self.calls = 0

    def see(self) -> _Seen:
        """Call it where the parameters are."""
        with torch.enable_grad():
            returned = self._closure()
        self.calls += 1
        try:
            loss = float(returned.detach() if isinstance(returned, Tensor) else returned)
        except (TypeError, ValueError, RuntimeError):
            got = f"shape {tuple(returned.shape)}" if isinstance(returned, Tensor) else type(returned).__name__
            raise ParameterError(
                f"{self._rule.name}: the closure must return the loss, a single number, got {got}. "
                "End it with `return loss`."
            ) from None
        pairs = _items(self._ready())
        # Copies: the gradients of the point that is kept are needed when the closure has been at others.
        grads = {position: item.grad.clone() for position, item in pairs}
        largest = reduce_over_items(Max, [grad.abs() for grad in grads.values()], [item for _, item in pairs])
        return _Seen(returned, -loss if self._maximize else loss, grads, largest)


def take(rule: Any, maximize: bool, closure: Callable[[], Any], ready: Ready) -> Any:
    """Iterate as the rule's settings say, from the closure's first call to its last; what the first returned.

    Args:
        rule: its settings are those of torch.optim.LBFGS
        maximize: whether the loss is to rise
        closure: computes the loss, and the gradients
        ready: the parameters that have a gradient, ready for one step of the rule

    No step is taken from where the loss or the gradient is not finite; one that leads there is taken back.

    """
    asked = _Closure(rule, maximize, closure, ready)
    first = here = asked.see()
    most_calls = rule.max_eval or rule.max_iter * 5 // 4
    for iteration in range(1, rule.max_iter + 1):
        if not here.is_finite or not here.grads or here.largest <= rule.tolerance_grad:
            break
        steps = ready()
        pairs = _alike(_items(steps), here)
        line = SearchLine([item for _, item in pairs])
        for binding, step in steps:
            binding.count(step)
        if not line.descent() >= rule.tolerance_change:
            break
        before, reach = here, line.max_change()
        try:
            if rule.line_search_fn == "strong_wolfe":
                positions = [position for position, _ in pairs]
                narrow = partial(_is_narrow, reach, rule.tolerance_change)
                length, here = _searched(line, positions, here, asked, most_calls - asked.calls, narrow)
            else:
                length = 1.0
                line.move_to(length)
                if iteration < rule.max_iter:  # after the last one the next step will look
                    here = asked.see()
                    length = 1.0 if here.is_finite else 0.0
        except BaseException:  # the user's closure failed, or was interrupted
            line.rollback()
            raise
        line.commit(length)
        if (
            asked.calls >= most_calls
            or length * reach <= rule.tolerance_change
            or abs(here.loss - before.loss) < rule.tolerance_change
        ):
            break
    return first.returned


def _searched(
    line: SearchLine,
    positions: Sequence[int],
    here: _Seen,
    asked: _Closure,
    most: int,
    is_narrow: Callable[[float], bool],
) -> tuple[float, _Seen]:
    """How far to go along a line, and what is seen there."""

    def point(t: float, seen: _Seen) -> Point:
        return Point(t, seen.loss, line.slope([seen.grads.get(position) for position in positions]), seen)

    def look(t: float) -> Point:
        line.move_to(t)
        return point(t, asked.see())

    kept = strong_wolfe(look, point(0.0, here), most=most, is_narrow=is_narrow)
    return kept.t, kept.found


def _is_narrow(reach: float, tolerance: float, width: float) -> bool:
    return width * reach < tolerance


def _items(steps: list[tuple[Binding, BatchStep]]) -> list[tuple[int, TensorStep]]:
    """The items of a step, each with the position of its parameter in the optimizer."""
    return [pair for binding, step in steps for pair in zip(binding.positions, binding.items(step), strict=True)]


def _alike(pairs: list[tuple[int, TensorStep]], here: _Seen) -> list[tuple[int, TensorStep]]:
    """Items with the gradients of here, that ask for as many inner products: the pairs of who has taken most steps.

    The gradients they come with may be those of a later point, at which the search did not stay. The pairs are counted
    here, since a parameter's own scalars do not tell of the others, and to ask the rule would wait for the device.
    """
    most = max((item.coefficients.pairs for _, item in pairs), default=0)
    found = []
    for position, item in pairs:
        grad = here.grads.get(position)
        grad = torch.zeros_like(item.grad) if grad is None else grad
        found.append((position, item._replace(grad=grad, coefficients=item.coefficients._replace(pairs=most))))
    return found
