"""Compatibility: the table of wrappers that must not go around some rules, because the nest would run and be wrong.

A wrapper declares its effects, a rule its traits (`owns_parameters`, `estimates_lr`, ...). `RESTRICTIONS` says which of
them contradict each other; it is checked when a wrapper is made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from thalweg.errors import SettingError
from thalweg.rules.core.rule import Rule

Effect = Literal[
    "moves parameters",  # `apply` writes the parameter, beside the inner rule
    "masks direction",  # parts of `direction` become zero
    "decays by lr",  # the learning rate sets the strength of a decay
    "decays by lr alone",  # a share of the parameter that is the learning rate times the decay
    "averages parameters",  # the model is evaluated at an average
    "bounds parameters",  # a step ends within bounds
    "preserves norms",  # each unit ends a step at the norm that it began with
    "may exceed bounds",  # a step may end outside the bounds of the inner rule
    "substitutes parameters",  # the inner rule sees other parameters and steps than those of the model
]

# Effects that are traits of the wrapper.
IMPLIED_TRAITS: dict[Effect, str] = {
    "averages parameters": "has_eval_params",
    "bounds parameters": "bounded",
    "preserves norms": "preserves_norms",
}

_SHAPE = torch.Size([2, 2])  # of any matrix


@dataclass(frozen=True)
class Restriction:
    """A wrapper with this effect must not go around a rule for which `forbids` returns True.

    The other fields are the parts of the message: "the inner rule {must}, got {rule}, {reason}. {remedy}".
    """

    effect: Effect
    forbids: Callable[[Rule], bool]
    must: str
    reason: str
    remedy: str


def _remembers_parameters(rule: Rule) -> bool:
    return any(tensor.unit == "θ" for tensor in rule.layout(_SHAPE).values())


def lr_is_a_factor(rule: Rule) -> bool:
    """Return True if the learning rate is a factor near 1 of a step that the rule sizes itself.

    Such a learning rate has no unit, and values above 1 are searched. Times a weight decay of 0.1 it would take 10 % of
    a parameter in every step.
    """
    declared = rule.hypers().get("lr")
    return declared is not None and declared.unit == "1" and declared.search is not None and declared.search.high > 1


RESTRICTIONS = (
    Restriction(
        "substitutes parameters",
        _remembers_parameters,
        must="must not store values in the unit of the parameters",
        reason="which does",
        remedy="Wrap a rule such as AdamW, and put averages outside.",
    ),
    Restriction(
        "moves parameters",
        lambda rule: rule.traits.owns_parameters,
        must="must let wrappers move the parameters",
        reason="which continues from parameters in its state",
        remedy="For weight decay use its own weight_decay; otherwise wrap another rule.",
    ),
    Restriction(
        "masks direction",
        lambda rule: rule.traits.owns_parameters,
        must="must step along its direction",
        reason="which continues from parameters in its state",
        remedy="Wrap a rule such as AdamW.",
    ),
    Restriction(
        "decays by lr",
        lambda rule: rule.traits.estimates_lr,
        must="must not estimate its own step size, since the decay scales with lr",
        reason="which does",
        remedy="Use its own weight_decay or none. With Mechanic, put the decay inside.",
    ),
    Restriction(
        "decays by lr alone",
        lr_is_a_factor,
        must="must have a learning rate that sizes its steps, since the decay takes off lr times weight_decay",
        reason="whose lr is a factor near 1",
        remedy="Use its own weight_decay, or FullyDecoupledDecay with reference_lr=lr: its λ is the share of a step.",
    ),
    Restriction(
        "moves parameters",
        lambda rule: rule.traits.preserves_norms,
        must="must let wrappers change the norms",
        reason="which restores them",
        remedy="Put FixedNorms outside, or remove one of the two.",
    ),
    Restriction(
        "averages parameters",
        lambda rule: rule.traits.has_eval_params,
        must="must be evaluated at the parameters that it trains",
        reason="which already evaluates the model at other parameters",
        remedy="Remove one of the two.",
    ),
    Restriction(
        "bounds parameters",
        lambda rule: rule.traits.has_eval_params,
        must="must be evaluated at the parameters that it trains",
        reason="whose average would not stay within the bounds",
        remedy="Put the average outside and the bound inside, as in moving_average(clip_weights(sgd)).",
    ),
    Restriction(
        "may exceed bounds",
        lambda rule: rule.traits.bounded,
        must="must not keep parameters within bounds",
        reason="whose bounds would be exceeded",
        remedy="Put the bound outside, or remove one of the two.",
    ),
)


def check_compatibility(wrapper: str, effects: frozenset[Effect], inner: Rule) -> None:
    """Raise SettingError if a wrapper of this name with these effects must not go around `inner`."""
    for restriction in RESTRICTIONS:
        if restriction.effect in effects and restriction.forbids(inner):
            raise SettingError(
                f"{wrapper}: the inner rule {restriction.must}, got {inner.name}, {restriction.reason}. "
                f"{restriction.remedy}"
            )
