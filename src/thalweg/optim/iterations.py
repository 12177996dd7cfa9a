"""Iterations: a step that is many, for rules that need a closure; each goes along a line as far as a search says.

The rule gives the direction (`engine.line`), `line_search` the length. This is the loop around both, and it ends where
torch.optim.LBFGS ends its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.batch import Step
from thalweg.engine.line import Line, over_all
from thalweg.engine.loop import Item
from thalweg.errors import ParameterError, SettingError
from thalweg.optim import keywords
from thalweg.optim.binding import Binding
from thalweg.optim.line_search import Point, strong_wolfe
from thalweg.rules import Max, Rule

Ready = Callable[[], list[tuple[Binding, Step]]]


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


def take(rule: Any, maximize: bool, closure: Callable[[], Any], ready: Ready) -> Any:
    """Iterate as the rule's settings say, from the closure's first call to its last; what the first returned.

    Args:
        rule: its settings are those of torch.optim.LBFGS
        maximize: whether the loss is to rise
        closure: computes the loss, and the gradients
        ready: the parameters that have a gradient, ready for one step of the rule

    No step is taken from where the loss or the gradient is not finite; one that leads there is taken back.

    """

    def see() -> _Seen:
        with torch.enable_grad():
            returned = closure()
        try:
            loss = float(returned.detach() if isinstance(returned, Tensor) else returned)
        except (TypeError, ValueError, RuntimeError):
            got = f"shape {tuple(returned.shape)}" if isinstance(returned, Tensor) else type(returned).__name__
            raise ParameterError(
                f"{rule.name}: the closure must return the loss, a single number, got {got}. End it with `return loss`."
            ) from None
        pairs = _items(ready())
        # Copies: the gradients of the point that is kept are needed when the closure has been at others.
        grads = {position: item.grad.clone() for position, item in pairs}
        largest = over_all(Max, [grad.abs() for grad in grads.values()], [item for _, item in pairs])
        return _Seen(returned, -loss if maximize else loss, grads, largest)

    first = here = see()
    most = rule.max_eval or rule.max_iter * 5 // 4
    looked = 1
    for iteration in range(1, rule.max_iter + 1):
        if not here.is_finite or not here.grads or here.largest <= rule.tolerance_grad:
            break
        steps = ready()
        # The gradients may be those of a later point, at which the search did not stay.
        pairs = [(at, item._replace(grad=here.grads[at])) for at, item in _alike(_items(steps)) if at in here.grads]
        line = Line([item for _, item in pairs])
        for binding, step in steps:
            binding.count(step)
        if not line.descent() >= rule.tolerance_change:
            break
        before, reach = here, line.reach()
        positions = [at for at, _ in pairs]
        try:
            if rule.line_search_fn == "strong_wolfe":

                def look(t: float, line: Line = line, positions: list[int] = positions) -> Point:
                    nonlocal looked
                    line.go(t)
                    found = see()
                    looked += 1
                    return Point(t, found.loss, line.slope([found.grads.get(at) for at in positions]), found)

                start = Point(0.0, here.loss, line.slope([here.grads[at] for at in positions]), here)

                def is_narrow(width: float, reach: float = reach) -> bool:
                    return width * reach < rule.tolerance_change

                kept = strong_wolfe(look, start, most=most - looked, is_narrow=is_narrow)
                length, here = kept.t, kept.found
            else:
                length = 1.0
                line.go(length)
                if iteration < rule.max_iter:  # after the last one the next step will look
                    here = see()
                    looked += 1
                    length = 1.0 if here.is_finite else 0.0
        except BaseException:  # the user's closure failed, or was interrupted
            line.back()
            raise
        line.settle(length)
        if (
            looked >= most
            or length * reach <= rule.tolerance_change
            or abs(here.loss - before.loss) < rule.tolerance_change
        ):
            break
    return first.returned


def _items(steps: list[tuple[Binding, Step]]) -> list[tuple[int, Item]]:
    """The items of a step, each with the position of its parameter in the optimizer."""
    return [pair for binding, step in steps for pair in zip(binding.positions, binding.items(step), strict=True)]


def _alike(pairs: list[tuple[int, Item]]) -> list[tuple[int, Item]]:
    """Items that ask for as many inner products as each other: the pairs of the parameter that has taken most steps.

    It is done here, since a parameter's own scalars do not tell of the others, and to ask would wait for the device.
    """
    most = max((item.coefficients.pairs for _, item in pairs), default=0)
    return [(at, item._replace(coefficients=item.coefficients._replace(pairs=most))) for at, item in pairs]
