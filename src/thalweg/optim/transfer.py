"""Transfer: from settings that work for one rule, a learning rate to start from for another.

Rules move parameters by steps of very different size at the same learning rate. What carries over is the size of the
step: both rules are shown the same gradients, and the new learning rate makes their steps equal in root mean square.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thalweg.engine.core.program import Program
from thalweg.engine.eager import loop
from thalweg.errors import ParameterError, SettingError
from thalweg.registry import rule_from_name
from thalweg.rules import Rule
from thalweg.rules.math.decay import BESIDE_STEP, IN_STEP

Match = Literal["step", "distance"]

_STEPS = 40  # of noise, where no gradients are given
_SHAPE = (64, 64)
_TOO_SMALL = 1e-30
_BY_RATE = (BESIDE_STEP, IN_STEP)  # where a decay takes off η λ


@dataclass(frozen=True)
class Transferred:
    """A rule at the settings to start from, and the step that both rules take."""

    rule: Rule
    step_size: float  # root mean square over all parameters, the learning rate included

    def __str__(self) -> str:
        """The settings that were set, in words."""
        found = {name: self.rule.settings()[name] for name in ("lr", "weight_decay") if name in self.rule.hypers()}
        texts = ", ".join(f"{name}={value:.2g}" for name, value in found.items())
        return f"{self.rule.name}: {texts} (steps of {self.step_size:.2g} in root mean square)"


def transfer(
    source: str | Rule,
    target: str | Rule,
    params: Iterable[Tensor] | None = None,
    gradients: Iterable[Sequence[Tensor]] | None = None,
    *,
    match: Match = "step",
) -> Transferred:
    """Bring the learning rate of one rule to another: where to start, not where to end.

    Args:
        source: the rule whose settings work, at these settings: `AdamW(lr=3e-4, weight_decay=0.1)`
        target: the rule to go to, at the settings that it is to have besides
        params: the parameters that are to be moved, for rules that look at more than one number at a time
        gradients: for each of some steps, twenty or more, the gradient of each parameter, as a training with the
            source has them. Without them noise is taken, which does for rules whose step no size of gradients changes
        match: what is made equal, both in root mean square: a `step`, or the `distance` come in the second half of the
            steps, to which steps add up that agree with each other, as those of much momentum do

    Returns the target at a learning rate that makes its steps as large as the source's, and at a weight decay that
    takes off as much in a step, where both decay by η λ.

    Momentum, a schedule and the noise of a batch size do not carry over: tune from there, a factor of 3 to either side.
    Raises SettingError for rules without a learning rate to bring over (D-Adaptation, Prodigy, DoG), and for noise
    where gradients are needed; ParameterError for gradients that are none.

    """
    first, second = (rule_from_name(one) if isinstance(one, str) else one for one in (source, target))
    given = [gradients] if isinstance(gradients, Tensor) else list(gradients or ())
    if any(isinstance(step, Tensor) for step in given):
        raise ParameterError(
            "transfer: gradients must be a list for each step, with the gradient of each parameter, got a tensor for a "
            "step. Pass [[param.grad.clone() for param in model.parameters()], ...]."
        )
    shown = None if gradients is None else [[grad.detach() for grad in step] for step in given]
    start = None if params is None else [param.detach() for param in params]
    for rule in (first, second):
        _check(rule, noise=shown is None, shapes=shown is None and start is None)
    if shown is None:
        generator = torch.Generator().manual_seed(0)
        shapes = [_SHAPE] if start is None else [param.shape for param in start]
        shown = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(_STEPS)]
    start = start or [torch.zeros_like(grad) for grad in (shown[0] if shown else ())]
    if len(shown) < 2 or any([grad.shape for grad in step] != [param.shape for param in start] for step in shown):
        raise ParameterError(
            f"transfer: gradients must be those of two steps or more, one for each parameter, got {len(shown)} steps "
            f"of {sorted({len(step) for step in shown})}. Keep [param.grad.clone() for param in params] of each step."
        )
    moved = [_moved(_without_decay(rule), start, shown) for rule in (first, second)]
    sizes = [one[match] for one in moved]
    if min(sizes) < _TOO_SMALL:
        still = first if sizes[0] < _TOO_SMALL else second
        raise ParameterError(f"transfer: {still.name} must move parameters at these gradients, and does not.")
    lr = float(second.settings()["lr"]) * sizes[0] / sizes[1]
    settings = {"lr": lr}
    decays = [rule.hypers().get("weight_decay") for rule in (first, second)]
    if all(one is not None and one.place in _BY_RATE for one in decays):
        settings["weight_decay"] = float(first.settings()["weight_decay"]) * float(first.settings()["lr"]) / lr
    return Transferred(second.with_(**settings), moved[0]["step"])


def _check(rule: Rule, *, noise: bool, shapes: bool) -> None:
    if rule.traits.needs != "gradient" or rule.parts or rule.traits.varies_by_step:
        raise SettingError(f"transfer: a rule must be one that needs gradients alone, got {rule.name}. Use its parts.")
    declared = rule.hypers().get("lr")
    if declared is None or declared.unit == "1":
        raise SettingError(
            f"transfer: a rule must have a learning rate to bring over, got {rule.name}, whose lr is a factor of a "
            "size that it finds itself. Start it at its default."
        )
    if shapes and rule.traits.scope != "elementwise":
        raise SettingError(
            f"transfer: {rule.name} looks at whole tensors, so params must be given. Pass a list of them."
        )
    if noise and declared.unit != "θ":
        raise SettingError(
            f"transfer: the steps of {rule.name} follow the size of gradients, so these must be given. Pass, for "
            "twenty steps, [param.grad.clone() for param in params]."
        )


def _without_decay(rule: Rule) -> Rule:
    moving = {name: 0.0 for name, one in rule.hypers().items() if one.moves_optimum}
    return rule.with_(**moving)


@torch.no_grad()
def _moved(rule: Rule, start: Sequence[Tensor], shown: Sequence[Sequence[Tensor]]) -> dict[Match, float]:
    """How far a rule that is shown these gradients moves parameters in the second half of the steps."""
    program = Program(rule)
    params, half = list(start), len(shown) // 2
    middle = params
    states = [program.init(param) for param in params]
    carried, squares = program.initial_recurrent_scalars(), []
    for step, grads in enumerate(shown, start=1):
        c = program.coefficients(step, previous=carried)
        carried = program.recurrent_scalars_of(c)
        items = [loop.TensorStep(program, *each, c) for each in zip(params, grads, states, strict=True)]
        before = params
        params, states = (list(each) for each in zip(*loop.update(items), strict=True))
        if step > half:
            squares.append(_mean_square(params, before))
        else:
            middle = params
    return {"step": (sum(squares) / len(squares)) ** 0.5, "distance": _mean_square(params, middle) ** 0.5}


def _mean_square(there: Sequence[Tensor], here: Sequence[Tensor]) -> float:
    squares = sum(float((one - other).double().square().sum()) for one, other in zip(there, here, strict=True))
    return squares / sum(one.numel() for one in there)
