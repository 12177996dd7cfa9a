"""Switched: one rule for the first steps, another one from then on.

    Switched((Adam(), SGD(momentum=0.9)), switch_at=1000, lr_ratio=10.0)

    θ_t as the first rule says for t <= n; then as the second says, at η r, as if step n + 1 were its first

To switch on a signal, set `switch_at` in the groups to the steps that were taken. What the second rule remembers is
made then, under keys of its own; what the first remembers is kept.

Source: Keskar & Socher 2017, arXiv:1712.07628 (Adam, then SGD), with the step and the ratio chosen by hand.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch

from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.core.hyper import Scalar, count, hyper
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import StateTensor
from thalweg.rules.core.traits import Traits


@dataclass(frozen=True)
class Switched(CompositeRule):
    """One rule for the first steps, another one from then on."""

    switch_at: int = count(1000, ">= 0", symbol="n", doc="steps by the first rule")
    lr_ratio: Scalar = hyper(1.0, "> 0", symbol="r", doc="learning rate of the second rule over that of the first")
    switched: bool = False  # told by `at`

    @property
    def name(self) -> str:
        return f"{self.original_rules[0].name} then {self.original_rules[1].name}"

    @property
    def code_key(self) -> Hashable:
        return type(self), self.switched, tuple(rule.code_key for rule in self.rules)

    @cached_property
    def traits(self) -> Traits:
        every = [rule.traits for rule in self.rules]
        limits = [traits.max_dims for traits in every if traits.max_dims is not None]
        return replace(
            super().traits,
            varies_by_step=True,
            supports_vmap=False,  # members would have to switch together
            # A parameter must suit both rules from the start, not only the current one.
            min_dims=max(traits.min_dims for traits in every),
            max_dims=min(limits, default=None),
        )

    def for_step(self, step: int) -> Self:
        changed = self._with({})
        changed.__dict__["switched"] = step > self.switch_at
        return changed

    @property
    def current(self) -> Rule:
        first, second = self.rules
        return second._with({"lr": first.settings()["lr"] * self.lr_ratio}) if self.switched else first

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        leaves = super().layout(shape)
        if not self.switched:
            return leaves
        return {name: replace(leaf, key=f"{self.names[1]}_{leaf.key}") for name, leaf in leaves.items()}

    def coefficients(self, step: int) -> Any:
        return self.current.coefficients(self._own(step))

    def rate(self, step: int) -> Any:
        return self.current.rate(self._own(step))

    def next_recurrent_scalars(self, step: int, before: Any) -> dict[str, float]:
        return self.current.next_recurrent_scalars(self._own(step), before)

    def _own(self, step: int) -> int:
        """The number of a step, as the rule that takes it counts them."""
        return max(1, step - self.switch_at) if self.switched else step
