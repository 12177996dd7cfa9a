"""Routed: several rules as one, each for its own parameters.

    Routed((Muon(), AdamW()))

The setting `rule` of a parameter group selects the rule of its parameters, by the name of the rule's file: `muon`,
`adamw`. So a routed optimizer is like any other: groups, schedules and checkpoints hold all of it, and it can be
wrapped.
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
    """Several rules as one, each for its own parameters.

    ``thalweg.optim.route`` assigns the parameters of a model to the rules.

    Args:
        rules: Two different rules. The last is the default and should take parameters of any shape.
        rule: The name of the rule of a parameter group; by default that of the last rule.
        lr_ratios: The learning rate of each rule over that of the first. By default from the rules' own learning
            rates, which are then all replaced by the first.

    Raises:
        SettingError: If the rules have one name, need more than gradients, or are routed themselves.

    Example:
        >>> from thalweg.rules import AdamW, Muon, Routed
        >>> Routed((Muon(lr=0.02), AdamW())).with_(rule="muon").current.name
        'Split(Muon)'
    """

    rule: str = ""
    lr_ratios: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        rates = [float(rule.settings()["lr"]) for rule in self.rules]
        object.__setattr__(
            self, "lr_ratios", self.lr_ratios or tuple(rate / rates[0] if rates[0] else 1.0 for rate in rates)
        )
        object.__setattr__(self, "rule", self.rule or (self.member_names[-1] if self.rules else ""))
        super().__post_init__()
        object.__setattr__(self, "rule", self._hypers["rule"].parse(f"{self.name}: rule", self.rule))

    @cached_property
    def _hypers(self) -> dict[str, Hyper]:
        names = self.member_names
        rule = Hyper(names[-1], "the rule that steps the parameters", kind="choice", options=tuple(names))
        return super()._hypers | {"rule": rule}

    def _replace(self, settings: dict[str, Any]) -> Self:
        changed = super()._replace(settings)
        if "rule" in settings:
            changed.__dict__["rule"] = self._hypers["rule"].parse(f"{self.name}: rule", settings["rule"])
        return changed

    @property
    def name(self) -> str:
        return "+".join(rule.name for rule in self.original_rules)

    @property
    def code_key(self) -> Hashable:
        return type(self), self.rule, tuple(rule.code_key for rule in self.rules)

    @property
    def parts(self) -> Mapping[str, Rule]:
        return dict(zip(self.member_names, self.rules, strict=True))

    @property
    def current_index(self) -> int:
        return self.member_names.index(self.rule)
