"""Routed: several rules as one, each for parameters of its own.

    Routed((Muon(), AdamW()))

Which rule a parameter follows is the setting `rule` of its group, by the name of the rule's file: `muon`, `adamw`. So a
routed optimizer is like any other one: groups, schedules and checkpoints hold it all, and it can be wrapped.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.core.hyper import Hyper
from thalweg.rules.core.rule import Rule


@dataclass(frozen=True)
class Routed(CompositeRule):
    """Several rules as one, each for parameters of its own."""

    rule: str = ""  # the last one by default, which should take parameters of any shape
    lr_ratios: tuple[float, ...] = ()  # of the learning rates as they were given, to the first

    def __post_init__(self) -> None:
        rates = [float(rule.settings()["lr"]) for rule in self.rules]
        object.__setattr__(
            self, "lr_ratios", self.lr_ratios or tuple(rate / rates[0] if rates[0] else 1.0 for rate in rates)
        )
        object.__setattr__(self, "rule", self.rule or (self.names[-1] if self.rules else ""))
        super().__post_init__()
        self._hypers["rule"].check(f"{self.name}: rule", self.rule)

    @cached_property
    def _hypers(self) -> dict[str, Hyper]:
        which = Hyper(self.names[-1], "which of the rules is followed", kind="choice", options=tuple(self.names))
        return super()._hypers | {"rule": which}

    def _with(self, settings: dict[str, Any]) -> Self:
        changed = super()._with(settings)
        if "rule" in settings:
            self._hypers["rule"].check(f"{self.name}: rule", settings["rule"])
            changed.__dict__["rule"] = settings["rule"]
        return changed

    @property
    def name(self) -> str:
        return "+".join(rule.name for rule in self.original_rules)

    @property
    def code_key(self) -> Hashable:
        return type(self), self.rule, tuple(rule.code_key for rule in self.rules)

    @property
    def parts(self) -> Mapping[str, Rule]:
        return dict(zip(self.names, self.rules, strict=True))

    @property
    def current(self) -> Rule:
        return self.rules[self.names.index(self.rule)]
