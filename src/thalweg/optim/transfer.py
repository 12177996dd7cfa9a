"""Transfer: a learning rate for one rule, computed from settings that work for another.

At the same learning rate rules move parameters by steps of very different size. The size of the step is what carries
over: both rules get the same gradients, and the new learning rate makes their steps equal in root mean square.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.errors import ParameterError, ParameterTypeError, SettingError, shown
from thalweg.optim.parameters.parameter_checks import as_list
from thalweg.registry import as_rule
from thalweg.rules import Rule
from thalweg.rules.math.decay import BESIDE_STEP, IN_STEP

Match = Literal["step", "distance"]

_NUM_NOISE_STEPS = 40
_NOISE_SHAPE = (64, 64)
_MIN_STEP_SIZE = 1e-30
_SCALED_BY_LR = (BESIDE_STEP, IN_STEP)  # places of a decay that shrinks parameters by η λ


@dataclass(frozen=True)
class Transferred:
    """The result of `transfer`.

    Attributes:
        rule: The target rule at the settings to start from.
        step_size: The size of the steps of both rules: root mean square over all parameters, in units of a parameter.
            The learning rate is included.
    """

    rule: Rule
    step_size: float

    def __str__(self) -> str:
        """Return the settings that were set, and the size of the steps."""
        names = [name for name in ("lr", "weight_decay") if name in self.rule.hypers()]
        settings = ", ".join(f"{name}={self.rule.settings()[name]:.2g}" for name in names)
        return f"{self.rule.name}: {settings} (steps of {self.step_size:.2g} in root mean square)"


def transfer(
    source: str | Rule,
    target: str | Rule,
    params: Iterable[Tensor] | None = None,
    gradients: Iterable[Sequence[Tensor]] | None = None,
    *,
    match: Match = "step",
) -> Transferred:
    """Transfer the learning rate of one rule to another. The result is where to start tuning, not where to end.

    The weight decay is transferred too if both rules shrink parameters by the learning rate times the decay. Momentum,
    schedules and the noise of the batch size do not carry over: tune from the result, by a factor of 3 to either side.

    Args:
        source: The rule whose settings work, at these settings: ``AdamW(lr=3e-4, weight_decay=0.1)``.
        target: The rule to start, at all its other settings.
        params: The parameters of the model. Rules that look at whole tensors need them.
        gradients: For each of some steps, twenty or more, the gradient of each parameter in a training with the source.
            Without gradients noise is used, which suffices for rules whose steps do not depend on their size.
        match: The length that is made equal, in root mean square: that of a ``"step"``, or the ``"distance"`` over the
            second half of the steps. Steps that agree with each other, as with much momentum, add up to a distance.

    Returns:
        The target at the new learning rate and weight decay, and the size of the steps.

    Raises:
        UnknownNameError: If no rule has the name of the source or the target.
        SettingError: If a rule estimates its own step size (D-Adaptation, Prodigy, DoG) or needs parameters or
            gradients that are missing.
        ParameterError: If the gradients do not fit the parameters, or do not move them.

    Example:
        >>> from thalweg.optim import transfer
        >>> from thalweg.rules import AdamW
        >>> print(transfer(AdamW(lr=3e-4, weight_decay=0.1), "lion"))
        Lion: lr=7.2e-05, weight_decay=0.42 (steps of 7.2e-05 in root mean square)
    """
    if not (isinstance(match, str) and match in get_args(Match)):
        raise SettingError(f"transfer: match must be one of {', '.join(get_args(Match))}, got {shown(match)}.")
    rules = [as_rule("transfer", rule) for rule in (source, target)]
    start = None if params is None else _as_tensors("params", params)
    steps = None if gradients is None else _as_steps(gradients)
    for rule in rules:
        _check_rule(rule, needs_gradients=steps is None, needs_params=steps is None and start is None)
    if steps is None:
        steps = _noise([_NOISE_SHAPE] if start is None else [param.shape for param in start])
    start = start or [torch.zeros_like(grad) for grad in (steps[0] if steps else ())]
    _check_shapes(steps, start)
    moves = [_measure(_without_decay(rule), start, steps) for rule in rules]
    sizes = [move[match] for move in moves]
    for rule, size in zip(rules, sizes, strict=True):
        if size < _MIN_STEP_SIZE:
            raise ParameterError(f"transfer: {rule.name} must move parameters at these gradients, and does not.")
    return Transferred(_rescaled(*rules, ratio=sizes[0] / sizes[1]), moves[0]["step"])


def _as_tensors(name: str, values: Any) -> list[Tensor]:
    """Return tensors without their graph; raise ParameterTypeError if a user passed something else."""
    tensors = as_list("transfer", values, name)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise ParameterTypeError(
                f"transfer: {name} must be a list of tensors, got {type(tensor).__name__} in it ({shown(tensor, 60)})."
            )
    return [tensor.detach() for tensor in tensors]


def _as_steps(gradients: Any) -> list[list[Tensor]]:
    steps = [gradients] if isinstance(gradients, Tensor) else as_list("transfer", gradients, "gradients")
    if any(isinstance(step, Tensor) for step in steps):
        raise ParameterError(
            "transfer: gradients must be a list for each step, with the gradient of each parameter, got a tensor for a "
            "step. Pass [[param.grad.clone() for param in model.parameters()], ...]."
        )
    return [_as_tensors("gradients", step) for step in steps]


def _noise(shapes: Sequence[Sequence[int]]) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(_NUM_NOISE_STEPS)]


def _check_shapes(steps: Sequence[Sequence[Tensor]], params: Sequence[Tensor]) -> None:
    shapes = [param.shape for param in params]
    if len(steps) < 2 or any([grad.shape for grad in step] != shapes for step in steps):
        raise ParameterError(
            f"transfer: gradients must be those of two steps or more, one for each parameter, got {len(steps)} steps "
            f"of {sorted({len(step) for step in steps})}. Keep [param.grad.clone() for param in params] of each step."
        )


def _check_rule(rule: Rule, *, needs_gradients: bool, needs_params: bool) -> None:
    """Raise SettingError if a rule has no learning rate to transfer or needs missing arguments."""
    if rule.traits.needs != "gradient" or rule.parts or rule.traits.varies_by_step:
        raise SettingError(f"transfer: a rule must be one that needs gradients alone, got {rule.name}. Use its parts.")
    declared = rule.hypers().get("lr")
    if declared is None or declared.unit == "1":
        raise SettingError(
            f"transfer: a rule must have a learning rate to transfer, got {rule.name}, whose lr is a factor of a step "
            "size that it estimates. Start it at its default."
        )
    if needs_params and rule.traits.scope != "elementwise":
        raise SettingError(
            f"transfer: {rule.name} looks at whole tensors, so params must be given. Pass a list of them."
        )
    if needs_gradients and declared.unit != "θ":
        raise SettingError(
            f"transfer: the steps of {rule.name} scale with the gradients, so gradients must be given. Pass, for "
            "twenty steps, [param.grad.clone() for param in params]."
        )


def _rescaled(source: Rule, target: Rule, *, ratio: float) -> Rule:
    """Return the target with its learning rate times a ratio, and a weight decay that shrinks as the source does."""
    lr = float(target.settings()["lr"]) * ratio
    settings = {"lr": lr}
    decays = [rule.hypers().get("weight_decay") for rule in (source, target)]
    if all(declared is not None and declared.place in _SCALED_BY_LR for declared in decays):
        settings["weight_decay"] = float(source.settings()["weight_decay"]) * float(source.settings()["lr"]) / lr
    return target.with_(**settings)


def _without_decay(rule: Rule) -> Rule:
    return rule.with_(**{name: 0.0 for name, declared in rule.hypers().items() if declared.moves_optimum})


@torch.no_grad()
def _measure(rule: Rule, start: Sequence[Tensor], steps: Sequence[Sequence[Tensor]]) -> dict[Match, float]:
    """Return how far a rule with these gradients moves parameters in the second half of the steps."""
    program = Program(rule)
    params, half = list(start), len(steps) // 2
    middle = params
    states = [program.init(param) for param in params]
    recurrent_scalars, squares = program.initial_recurrent_scalars(), []
    for step, grads in enumerate(steps, start=1):
        c = program.coefficients(step, previous=recurrent_scalars)
        recurrent_scalars = program.recurrent_scalars_of(c)
        items = [
            loop.TensorStep(program, param, grad, state, c)
            for param, grad, state in zip(params, grads, states, strict=True)
        ]
        before = params
        results = list(loop.update(items))
        params, states = [param for param, _ in results], [state for _, state in results]
        if step > half:
            squares.append(_mean_square(params, before))
        else:
            middle = params
    return {"step": (sum(squares) / len(squares)) ** 0.5, "distance": _mean_square(params, middle) ** 0.5}


def _mean_square(params: Sequence[Tensor], origin: Sequence[Tensor]) -> float:
    """Return the mean square of the difference over all elements."""
    pairs = zip(params, origin, strict=True)
    squares = sum(float((param - before).double().square().sum()) for param, before in pairs)
    return squares / sum(param.numel() for param in params)
