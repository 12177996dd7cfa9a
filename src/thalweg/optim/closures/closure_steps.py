"""Closure steps: one step of several iterations, for rules that need a closure (L-BFGS).

In each iteration the rule gives a direction (`engine.search_line`) and `line_search` the length of the way along it.
This module is the loop around both. It ends where torch.optim.LBFGS ends its loop. The parameters of a model step as
one vector (`engine.flat_model`) where they can, else one by one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import flat_model
from thalweg.engine.core.batch import BatchStep
from thalweg.engine.core.plain_tensors import address
from thalweg.engine.eager.loop import TensorStep
from thalweg.engine.flat_model import FlatModel
from thalweg.engine.search_line import SearchLine, SeparateTensors, largest_abs
from thalweg.errors import ParameterError, SettingError
from thalweg.optim.closures.line_search import Point, strong_wolfe
from thalweg.optim.parameters.binding import Binding
from thalweg.optim.settings import keywords
from thalweg.rules import Rule
from thalweg.rules.composition.composite import CompositeRule

Steps = list[tuple[Binding, BatchStep]]
PrepareSteps = Callable[[], Steps]


@dataclass(frozen=True)
class _Evaluation:
    """The result of the closure at some values of the parameters.

    Attributes:
        returned: The value that the closure returned.
        loss: The loss; its negative if it is maximized.
        grads: The gradients by the position of the parameter in the optimizer, of parameters that have one; None if
            these are the parameters of the vector.
        vector: The gradients of the model as one vector; None if its parameters step one by one.
    """

    returned: Any
    loss: float
    grads: Mapping[int, Tensor] | None
    vector: Tensor | None

    @cached_property
    def max_grad(self) -> float:
        """The largest absolute value in the gradients."""
        grads = self.grads.values() if self.grads is not None else [self.vector]
        return max((largest_abs(grad) for grad in grads if grad is not None), default=0.0)

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.max_grad)


def check_settings(rule: Rule, groups: Sequence[dict[str, Any]]) -> None:
    """Raise SettingError if settings differ between groups."""
    first, *remaining = [
        _last_rule(keywords.to_rule(rule, group)).settings() | {"maximize": group["maximize"]} for group in groups
    ]
    # Equal learning rates, too: the inverse Hessian belongs to all parameters at once, not to the groups.
    for name, value in first.items():
        if different := [settings[name] for settings in remaining if settings[name] != value]:
            raise SettingError(
                f"{rule.name}: all groups must have the same {name}, got {value!r} and {different[0]!r}. "
                "Put the parameters into one group. Parameters that must not move need no gradient."
            )


def _last_rule(rule: Rule) -> Rule:
    """Return the rule that calls the closure several times: of a composite the last one."""
    while isinstance(rule, CompositeRule):
        rule = rule.rules[-1]
    return rule


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


class ClosureSteps:
    """The steps of an optimizer that calls a closure several times a step.

    Args:
        prepare_steps: A function that returns one step of the rule for the parameters that have a gradient.
        params: All parameters of the optimizer.
    """

    def __init__(self, prepare_steps: PrepareSteps, params: Sequence[Tensor]) -> None:
        self._prepare_steps, self._params = prepare_steps, params
        self._flat: _FlatSteps | None = None

    def run(self, rule: Rule, maximize: bool, closure: Callable[[], Any]) -> Any:
        """Run the iterations of one step.

        No iteration starts where the loss or a gradient is not finite. An iteration that ends there is undone.

        Args:
            rule: A rule with the settings of torch.optim.LBFGS, or a composite whose current rule is one.
            maximize: True if the loss is to be increased.
            closure: A function that computes the loss and the gradients.

        Returns:
            The result of the first call of the closure.
        """
        settings: Any = _last_rule(rule)
        evaluate = _Evaluator(settings.name, maximize, closure, self)
        loss = evaluate.loss()
        self._follow_parameters()
        first = current = evaluate.at(*loss)
        max_calls = settings.max_eval or settings.max_iter * 5 // 4
        for iteration in range(1, settings.max_iter + 1):
            has_grads = bool(current.grads) or current.grads is None
            if not current.is_finite or not has_grads or current.max_grad <= settings.tolerance_grad:
                break
            line, gradients_of = self._line(rule, current)
            if not line.descent() >= settings.tolerance_change:
                break
            previous, max_change = current, line.max_change()
            try:
                if settings.line_search_fn == "strong_wolfe":
                    is_narrow = partial(_is_narrow, max_change, settings.tolerance_change)
                    left = max_calls - evaluate.num_calls
                    length, current = _search(line, gradients_of, current, evaluate, left, is_narrow)
                else:
                    length = 1.0
                    line.move_to(length)
                    if iteration < settings.max_iter:  # after the last iteration the next step evaluates
                        current = evaluate()
                        length = 1.0 if current.is_finite else 0.0
            except BaseException:  # the user's closure failed or was interrupted
                line.rollback()
                raise
            line.commit(length)
            if (
                evaluate.num_calls >= max_calls
                or length * max_change <= settings.tolerance_change
                or abs(current.loss - previous.loss) < settings.tolerance_change
            ):
                break
        return first.returned

    def _follow_parameters(self) -> None:
        """Make the parameters that have a gradient one vector, if they can be; keep it as long as it is theirs."""
        steps = self._prepare_steps()
        if self._flat is not None and self._flat.continues(steps):
            return
        self._flat = None
        items = _aligned(steps)
        if flat_model.unsupported_reason(items) or any(
            param.is_complex() for binding, _ in steps for param in binding.params
        ):
            return
        flat = FlatModel(items)
        views = {name: iter(tensors) for name, tensors in flat.views.items()}
        for binding, _ in steps:
            layout = binding.program.layout(binding.batch.params[0].shape)
            for entry in binding.records:
                for name, tensors in views.items():
                    entry[layout[name].key] = next(tensors)
        self._flat = _FlatSteps(flat, self._prepare_steps(), self._params)

    def gradients(self) -> tuple[Mapping[int, Tensor] | None, Tensor | None]:
        """Return copies of the gradients as in ``_Evaluation``: by position, and as a vector."""
        if self._flat is not None and not self._flat.has_foreign_gradients():
            vector = self._flat.model.gradients(self._flat.params)
            if vector is not None:
                return None, vector
        items = _items_by_position(self._prepare_steps())
        # Copies: the gradients of the accepted point are needed after the closure has been called at others.
        grads = {position: item.grad.clone() for position, item in items}
        return grads, None if self._flat is None else self._flat.vector_of(grads)

    def _line(self, rule: Rule, current: _Evaluation) -> tuple[SearchLine, Callable[[_Evaluation], list[Tensor]]]:
        """Return the line from an evaluation, and a function that returns gradients as the line takes them."""
        if self._flat is not None and current.grads is None:
            assert current.vector is not None
            return self._flat.line(rule, current.vector), _vector_of
        self._flat = None  # other parameters than those of the vector have gradients
        steps = self._prepare_steps()
        items = _with_gradients(steps, current)
        tensors = SeparateTensors([item for _, item in items])
        own = [item._replace(param=item.param.clone(), grad=item.grad.clone()) for _, item in items]
        line = SearchLine(own, tensors)
        for binding, step in steps:
            binding.count(step)

        def gradients_of(evaluation: _Evaluation) -> list[Tensor]:
            grads = evaluation.grads or {}
            return [grads.get(position, torch.zeros_like(item.param)) for position, item in items]

        return line, gradients_of


class _FlatSteps:
    """The steps of a model as one vector."""

    def __init__(self, model: FlatModel, steps: Steps, all_params: Sequence[Tensor]) -> None:
        self.model = model
        self._steps = steps
        self._bindings = [binding for binding, _ in steps]
        self._positions = [position for binding in self._bindings for position in binding.positions]
        self.params = [param for binding in self._bindings for param in binding.params]
        own = set(map(id, self.params))
        self._params_outside = [param for param in all_params if id(param) not in own]

    def continues(self, steps: Steps) -> bool:
        """Return True if steps are of the same parameters, whose state lies where it did."""
        is_same = [binding for binding, _ in steps] == self._bindings  # a binding is valid while its memory stays
        if is_same:
            self._steps = steps
        return is_same

    def has_foreign_gradients(self) -> bool:
        """Return True if a parameter that is not of the vector has a gradient, or one that is has none."""
        return any(param.grad is not None for param in self._params_outside) or any(
            param.grad is None for param in self.params
        )

    def vector_of(self, grads: Mapping[int, Tensor]) -> Tensor:
        """Return gradients by position as a vector; zeros for those that are missing."""
        return self.model.joined([grads.get(position) for position in self._positions])

    def line(self, rule: Rule, vector: Tensor) -> SearchLine:
        """Return the line of a rule from the present values with these gradients, and count the step."""
        coefficients = rule.coefficients(1 + max(binding.largest_step_count() for binding in self._bindings))
        line = SearchLine([self.model.item(vector, coefficients)], self.model)
        for binding, batch_step in self._steps:
            binding.count(batch_step)
        return line


class _Evaluator:
    """Calls the user's closure, and counts the calls."""

    def __init__(self, who: str, maximize: bool, closure: Callable[[], Any], steps: ClosureSteps) -> None:
        self._who, self._maximize, self._closure, self._steps = who, maximize, closure, steps
        self.num_calls = 0

    def loss(self) -> tuple[Any, float]:
        """Call the closure at the present values of the parameters. Return its result, and the loss as a number."""
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
                f"{self._who}: the closure must return the loss, a single number, got {got}. End it with `return loss`."
            ) from None
        return returned, -loss if self._maximize else loss

    def at(self, returned: Any, loss: float) -> _Evaluation:
        """Return the evaluation of the last call, with the gradients that it has left."""
        return _Evaluation(returned, loss, *self._steps.gradients())

    def __call__(self) -> _Evaluation:
        """Call the closure and return the evaluation."""
        return self.at(*self.loss())


def _search(
    line: SearchLine,
    gradients_of: Callable[[_Evaluation], list[Tensor]],
    start: _Evaluation,
    evaluate: _Evaluator,
    max_evaluations: int,
    is_narrow: Callable[[float], bool],
) -> tuple[float, _Evaluation]:
    """Return the length to go along a line, and the evaluation there."""

    def point(t: float, evaluation: _Evaluation) -> Point[_Evaluation]:
        return Point(t, evaluation.loss, line.slope(gradients_of(evaluation)), evaluation)

    def at(t: float) -> Point[_Evaluation]:
        line.move_to(t)
        return point(t, evaluate())

    accepted = strong_wolfe(at, point(0.0, start), max_evaluations=max_evaluations, is_narrow=is_narrow)
    return accepted.t, accepted.evaluation


def _is_narrow(max_change: float, tolerance: float, width: float) -> bool:
    return width * max_change < tolerance


def _vector_of(evaluation: _Evaluation) -> list[Tensor]:
    assert evaluation.vector is not None
    return [evaluation.vector]


def _items_by_position(steps: Steps) -> list[tuple[int, TensorStep]]:
    """Return the steps of the single tensors, each with the position of its parameter in the optimizer."""
    return [pair for binding, step in steps for pair in zip(binding.positions, binding.items(step), strict=True)]


def _with_gradients(steps: Steps, evaluation: _Evaluation) -> list[tuple[int, TensorStep]]:
    """Return steps with the gradients of an evaluation.

    The steps may come with the gradients of a later point that the search did not accept.
    """
    grads = evaluation.grads or {}
    positions = [position for binding, _ in steps for position in binding.positions]
    return [
        (position, item._replace(grad=grads.get(position, torch.zeros_like(item.grad))))
        for position, item in zip(positions, _aligned(steps), strict=True)
    ]


def _aligned(steps: Steps) -> list[TensorStep]:
    """Return the steps of the single tensors as steps of one model.

    All of them must ask for the same inner products: those of the parameter with the most steps and pairs. A parameter
    that joins later has not moved so far. In pairs that it missed it has zeros.
    """
    items = [item for _, item in _items_by_position(steps)]
    num_steps = max((item.coefficients.pairs for item in items), default=0)
    num_pairs = max((int(item.state.num_pairs) for item in items), default=0)
    aligned = []
    for item in items:
        c, state = item.coefficients, item.state
        if num_steps and c.first:
            state.last.copy_(item.param)
            state.last_grad.copy_(item.program.descent_gradient(item.grad, state.last_grad.dtype))
        if (own := int(state.num_pairs)) < num_pairs:
            kept = len(state.s)
            missed = [index % kept for index in range(max(own, num_pairs - kept), num_pairs)]
            state.s[missed], state.y[missed] = 0, 0
            state.num_pairs.fill_(num_pairs)
        aligned.append(item._replace(coefficients=c._replace(pairs=num_steps, first=float(c.first and not num_steps))))
    return aligned
