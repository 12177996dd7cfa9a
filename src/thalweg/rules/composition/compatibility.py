"""Contracts: what a wrapper asks of the rule it is put around, beyond settings and names.

A wrapper declares its effects, a rule its traits (`owns_parameters`, `estimates_lr`, ...), and the table below says
which of these are incompatible. It is read when a wrapper is made: an incompatible nest would run and be wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from thalweg.errors import SettingError
from thalweg.rules.core.rule import Rule

Effect = Literal[
    "moves",  # writes the parameter in `apply`, beside the inner rule
    "masks",  # takes parts of `direction` away
    "decays",  # by a share that is made of the learning rate
    "averages",  # says where the model is to be used
    "bounds",  # keeps parameters within bounds
    "keeps norms",  # of the units, as they are before a step
    "leaves bounds",  # which the inner rule keeps
    "stands in",  # the parameters and steps that the inner rule knows are not those of the model
]

# Traits that a wrapper with an effect gives to the whole nest.
IMPLIED_TRAITS: dict[Effect, str] = {
    "averages": "has_eval_params",
    "bounds": "bounded",
    "keeps norms": "preserves_norms",
}

_SHAPE = torch.Size([2, 2])


@dataclass(frozen=True)
class Restriction:
    """A wrapper that `effects` this must not be put around a rule that `breaks` it."""

    effects: Effect
    breaks: Callable[[Rule], bool]
    must: str
    why: str
    remedy: str


def _remembers_lengths(rule: Rule) -> bool:
    return any(leaf.unit == "θ" for leaf in rule.layout(_SHAPE).values())


RESTRICTIONS = (
    Restriction(
        "stands in",
        _remembers_lengths,
        "must remember nothing of the size of the parameters",
        "which does",
        "Wrap AdamW, say, and put what averages outside.",
    ),
    Restriction(
        "moves",
        lambda rule: rule.traits.owns_parameters,
        "must let others move the parameters",
        "which goes on from parameters that it remembers",
        "For a weight decay use its own weight_decay; for the rest wrap another rule.",
    ),
    Restriction(
        "masks",
        lambda rule: rule.traits.owns_parameters,
        "must step along its direction",
        "which goes on from parameters that it remembers",
        "Wrap AdamW, say.",
    ),
    Restriction(
        "decays",
        lambda rule: rule.traits.estimates_lr,
        "must be told how long its steps are",
        "which finds that out, so its lr makes no share of the parameters",
        "Use its own weight_decay or none; of Mechanic, put the decay inside.",
    ),
    Restriction(
        "moves",
        lambda rule: rule.traits.preserves_norms,
        "must let others change the norms",
        "which puts them back to what it finds",
        "Put FixedNorms outside, or leave one of the two out.",
    ),
    Restriction(
        "averages",
        lambda rule: rule.traits.has_eval_params,
        "must be used where it is trained",
        "which already says where the model is used",
        "Leave one of the two out.",
    ),
    Restriction(
        "bounds",
        lambda rule: rule.traits.has_eval_params,
        "must be used where it is trained",
        "whose average no bound would hold",
        "Put the average outside and the bound inside, as in moving_average(clip_weights(sgd)).",
    ),
    Restriction(
        "leaves bounds",
        lambda rule: rule.traits.bounded,
        "must not keep parameters within bounds",
        "whose bounds would be left",
        "Put the bound outside, or leave one of the two out.",
    ),
)


def check(effects: frozenset[Effect], who: str, inner: Rule) -> None:
    """Raise SettingError if a wrapper that does this, and is called `who`, cannot be around `inner`."""
    for one in RESTRICTIONS:
        if one.effects in effects and one.breaks(inner):
            raise SettingError(f"{who}: the inner rule {one.must}, got {inner.name}, {one.why}. {one.remedy}")
