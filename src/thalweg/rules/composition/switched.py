"""Switched: one rule for the first steps, another rule for all later steps.

    Switched((Adam(), SGD(momentum=0.9)), switch_at=1000, lr_ratio=10.0)

    θ_t as the first rule says for t <= n; then as the second says, at η r, as if step n + 1 were its first

To switch on a signal, set `switch_at` in the groups to the number of steps so far. The state of the second rule is
created at the switch, under keys of its own; that of the first rule stays.

The second rule may need a closure, as L-BFGS does. It has a learning rate of its own, `lbfgs_lr`, and there is no
ratio. All steps get the closure; those of the first rule call it once. An iteration of the second rule counts as a
step.

Source: Keskar & Socher 2017, arXiv:1712.07628 (Adam, then SGD), with the step and the ratio chosen by hand.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch

from thalweg.rules.composition.composite import CompositeRule, shared_settings
from thalweg.rules.core.hyper import Hyper, Scalar, count, hyper
from thalweg.rules.core.records import Record
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import StateTensor
from thalweg.rules.core.traits import Traits


@dataclass(frozen=True)
class Switched(CompositeRule):
    """One rule for the first steps, another rule for all later steps.

    Args:
        rules: The first rule and the second rule; they must be different.
        switch_at: The number of steps of the first rule, >= 0.
        lr_ratio: The learning rate of the second rule over that of the first, > 0.
        switched: True if the second rule is current. ``for_step`` sets it.

    Raises:
        SettingError: If the rules have one name, are routed, or need more than gradients; the second may need a
            closure.

    Example:
        >>> from thalweg.rules import SGD, Adam, Switched
        >>> rule = Switched((Adam(lr=0.01), SGD()), switch_at=100, lr_ratio=10.0)
        >>> rule.for_step(101).current
        SGD(lr=0.1, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False)
    """

    switch_at: int = count(1000, ">= 0", symbol="n", doc="steps by the first rule")
    lr_ratio: Scalar = hyper(1.0, "> 0", symbol="r", doc="learning rate of the second rule over that of the first")
    switched: bool = False

    _allowed_needs = (("gradient",), ("gradient", "closure"))

    @property
    def name(self) -> str:
        return f"{self.original_rules[0].name} then {self.original_rules[1].name}"

    @property
    def code_key(self) -> Hashable:
        return type(self), self.switched, tuple(rule.code_key for rule in self.rules)

    @cached_property
    def traits(self) -> Traits:
        members = [rule.traits for rule in self.rules]
        limits = [traits.max_dims for traits in members if traits.max_dims is not None]
        return super().traits.with_(
            varies_by_step=True,
            needs="closure" if any(traits.needs == "closure" for traits in members) else "gradient",
            supports_shards=all(traits.supports_shards for traits in members),
            supports_vmap=False,  # members of a population would have to switch together
            # A parameter must suit both rules from the start, not only the current one.
            min_dims=max(traits.min_dims for traits in members),
            max_dims=min(limits, default=None),
        )

    @cached_property
    def _hypers(self) -> dict[str, Hyper]:
        hypers = super()._hypers
        if "lr" not in shared_settings(self.rules[1]):
            return {name: declared for name, declared in hypers.items() if name != "lr_ratio"}
        return hypers

    def for_step(self, step: int) -> Self:
        changed = self._replace({})
        changed.__dict__["switched"] = step > self.switch_at
        return changed

    @property
    def current_index(self) -> int:
        return int(self.switched)

    @property
    def current(self) -> Rule:
        first, second = self.rules
        if not self.switched:
            return first
        if "lr" not in shared_settings(second):
            return second
        return second._replace({"lr": first.settings()["lr"] * self.lr_ratio})

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        layout = super().layout(shape)
        if not self.switched:
            return layout
        return {name: replace(tensor, key=f"{self.member_names[1]}_{tensor.key}") for name, tensor in layout.items()}

    def coefficients(self, step: int) -> Record:
        return self.current.coefficients(self._step_of_current(step))

    def base_lr(self, step: int) -> Any:
        return self.current.base_lr(self._step_of_current(step))

    def next_recurrent_scalars(self, step: int, previous: Any) -> dict[str, float]:
        return self.current.next_recurrent_scalars(self._step_of_current(step), previous)

    def model_coefficients(self, step: int, model_lr: float) -> dict[str, Any]:
        return self.current.model_coefficients(self._step_of_current(step), model_lr)

    def _step_of_current(self, step: int) -> int:
        """Return the number of a step, as the current rule counts its steps."""
        return max(1, step - self.switch_at) if self.switched else step
