"""Closure steps: one step of several iterations, for rules that need a closure (L-BFGS).

In each iteration the rule gives a direction (`engine.search_line`) and `line_search` the length of the way along it.
This module is the loop around both. It ends where torch.optim.LBFGS ends its loop.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.plain_tensors import address
from thalweg.engine.eager.loop import TensorStep
from thalweg.engine.search_line import SearchLine, reduce_over_items
from thalweg.errors import ParameterError, SettingError
from thalweg.optim import keywords
from thalweg.optim.binding import Binding
from thalweg.optim.line_search import Point, strong_wolfe
from thalweg.rules import Max, Rule

PrepareSteps = Callable[[], list[tuple[Binding, BatchStep]]]


@dataclass(frozen=True)
class _Evaluation:
    """The result of the closure at some values of the parameters.

    Attributes:
        returned: The value that the closure returned.
        loss: The loss; its negative if it is maximized.
        grads: The gradients by the position of the parameter in the optimizer, of parameters that have one.
        max_grad: The largest absolute value in the gradients.
    """

    returned: Any
    loss: float
    grads: Mapping[int, Tensor]
    max_grad: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.max_grad)


def check_settings(rule: Rule, groups: Sequence[dict[str, Any]]) -> None:
    """Raise SettingError if settings differ between groups."""
    first, *remaining = [keywords.settings(rule, group) | {"maximize": group["maximize"]} for group in groups]
    # Equal learning rates, too: the inverse Hessian belongs to all parameters at once, not to the groups.
    for name, value in first.items():
        if different := [settings[name] for settings in remaining if settings[name] != value]:
            raise SettingError(
                f"{rule.name}: all groups must have the same {name}, got {value!r} and {different[0]!r}. "
                "Put the parameters into one group. Parameters that must not move need no gradient."
            )


def check_groups(rule: Rule, groups: Sequence[dict[str, Any]]) -> None:
    """Check that the groups of an optimizer can be searched along one line.

    Raises:
        SettingError: If settings differ between groups.
        ParameterError: If parameters are on several devices or sharded.
    """
    check_settings(rule, groups)
    params = [param for group in groups for param in group["params"]]
    if len(set(map(id, params))) < len(params):
        raise ParameterError(
            f"{rule.name}: every parameter must be in the groups once, since all of them move along one line, got one "
            "twice. Remove it."
        )
    if len(devices := {str(param.device) for param in params}) > 1:
        raise ParameterError(
            f"{rule.name}: all parameters must be on one device, got {' and '.join(sorted(devices))}. "
            "Move the model to one of them first."
        )
    if any(param.is_meta for param in params):
        raise ParameterError(
            f"{rule.name}: parameters must have values, since a step depends on them, got some on the meta device. "
            "Materialize the model first: model.to_empty(device=...)."
        )


class _Closure:
    """The user's closure, and the number of its calls."""

    def __init__(self, rule: Any, maximize: bool, closure: Callable[[], Any], prepare_steps: PrepareSteps) -> None:
        self._rule, self._maximize, self._closure, self._prepare_steps = rule, maximize, closure, prepare_steps
        self.num_calls = 0

    def evaluate(self) -> _Evaluation:
        """Call the closure at the present values of the parameters."""
        with torch.enable_grad():
            returned = self._closure()
        self.num_calls += 1
        try:
            loss = float(returned.detach() if isinstance(returned, Tensor) else returned)
        except (TypeError, ValueError, RuntimeError):
            got = type(returned).__name__
            if isinstance(returned, Tensor):
                got = f"shape {tuple(returned.shape)}"
                if returned.numel() == 1 and not address(returned):
                    got += " without a number: the tensor is fake or on the meta device"
            raise ParameterError(
                f"{self._rule.name}: the closure must return the loss, a single number, got {got}. "
                "End it with `return loss`."
            ) from None
        items = _items_by_position(self._prepare_steps())
        # Copies: the gradients of the accepted point are needed after the closure has been called at others.
        grads = {position: item.grad.clone() for position, item in items}
        max_grad = reduce_over_items(Max, [grad.abs() for grad in grads.values()], [item for _, item in items])
        return _Evaluation(returned, -loss if self._maximize else loss, grads, max_grad)


def run(rule: Any, maximize: bool, closure: Callable[[], Any], prepare_steps: PrepareSteps) -> Any:
    """Run the iterations of one step.

    No iteration starts where the loss or a gradient is not finite. An iteration that ends there is undone.

    Args:
        rule: A rule with the settings of torch.optim.LBFGS.
        maximize: True if the loss is to be increased.
        closure: A function that computes the loss and the gradients.
        prepare_steps: A function that returns one step of the rule for the parameters that have a gradient.

    Returns:
        The result of the first call of the closure.
    """
    counted = _Closure(rule, maximize, closure, prepare_steps)
    first = current = counted.evaluate()
    max_calls = rule.max_eval or rule.max_iter * 5 // 4
    for iteration in range(1, rule.max_iter + 1):
        if not current.is_finite or not current.grads or current.max_grad <= rule.tolerance_grad:
            break
        steps = prepare_steps()
        items = _with_gradients(_items_by_position(steps), current)
        line = SearchLine([item for _, item in items])
        for binding, step in steps:
            binding.count(step)
        if not line.descent() >= rule.tolerance_change:
            break
        previous, max_change = current, line.max_change()
        try:
            if rule.line_search_fn == "strong_wolfe":
                positions = [position for position, _ in items]
                is_narrow = partial(_is_narrow, max_change, rule.tolerance_change)
                length, current = _search(line, positions, current, counted, max_calls - counted.num_calls, is_narrow)
            else:
                length = 1.0
                line.move_to(length)
                if iteration < rule.max_iter:  # after the last iteration the next step evaluates
                    current = counted.evaluate()
                    length = 1.0 if current.is_finite else 0.0
        except BaseException:  # the user's closure failed or was interrupted
            line.rollback()
            raise
        line.commit(length)
        if (
            counted.num_calls >= max_calls
            or length * max_change <= rule.tolerance_change
            or abs(current.loss - previous.loss) < rule.tolerance_change
        ):
            break
    return first.returned


def _search(
    line: SearchLine,
    positions: Sequence[int],
    start: _Evaluation,
    closure: _Closure,
    max_evaluations: int,
    is_narrow: Callable[[float], bool],
) -> tuple[float, _Evaluation]:
    """Return the length to go along a line, and the evaluation there."""

    def point(t: float, evaluation: _Evaluation) -> Point[_Evaluation]:
        slope = line.slope([evaluation.grads.get(position) for position in positions])
        return Point(t, evaluation.loss, slope, evaluation)

    def evaluate(t: float) -> Point[_Evaluation]:
        line.move_to(t)
        return point(t, closure.evaluate())

    accepted = strong_wolfe(evaluate, point(0.0, start), max_evaluations=max_evaluations, is_narrow=is_narrow)
    return accepted.t, accepted.evaluation


def _is_narrow(max_change: float, tolerance: float, width: float) -> bool:
    return width * max_change < tolerance


def _items_by_position(steps: list[tuple[Binding, BatchStep]]) -> list[tuple[int, TensorStep]]:
    """Return the steps of the single tensors, each with the position of its parameter in the optimizer."""
    return [pair for binding, step in steps for pair in zip(binding.positions, binding.items(step), strict=True)]


def _with_gradients(items: list[tuple[int, TensorStep]], evaluation: _Evaluation) -> list[tuple[int, TensorStep]]:
    """Return steps with the gradients of an evaluation, and with the same number of pairs in all their coefficients.

    The steps may come with the gradients of a later point that the search did not accept. All of them must ask for the
    same inner products, those of the parameter with the most steps. Its number of pairs is computed here, since the
    scalars of one parameter say nothing of another, and to read it from tensors would wait for the device.
    """
    num_pairs = max((item.coefficients.pairs for _, item in items), default=0)
    aligned = []
    for position, item in items:
        grad = evaluation.grads.get(position)
        grad = torch.zeros_like(item.grad) if grad is None else grad
        aligned.append((position, item._replace(grad=grad, coefficients=item.coefficients._replace(pairs=num_pairs))))
    return aligned
