"""CompositeRule: the base of rules that are made of several rules, one of which is current at a time.

Settings of the first rule keep their names; those of the others have the rule's name in front (`adamw_eps`). All rules
share the learning rate and the weight decay; a rule with a line search has a learning rate of its own (`lbfgs_lr`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.composition.split import Split
from thalweg.rules.composition.wrapper import unwrap
from thalweg.rules.core.hyper import Hyper
from thalweg.rules.core.records import Record
from thalweg.rules.core.reductions import RequestGenerator, resolve_reductions, within_part
from thalweg.rules.core.rule import Rule
from thalweg.rules.core.state import StateTensor
from thalweg.rules.core.traits import Needs, Traits

SHARED = ("lr", "weight_decay")


def settings_prefix(rule: Rule) -> str:
    """Return the name of a rule in settings: that of its file, or of its class if it is a user's rule."""
    rule_class = type(unwrap(rule))
    if rule_class.__module__.startswith("thalweg.rules."):
        return rule_class.__module__.rpartition(".")[2]
    return rule_class.__name__.lower()


@dataclass(frozen=True)
class CompositeRule(Rule):
    """The base class of rules that are made of several rules. Abstract.

    Attributes:
        rules: Two different rules. Those that need whole matrices are put into a :class:`Split`.
    """

    rules: tuple[Rule, ...]

    _allowed_needs: ClassVar[tuple[tuple[Needs, ...], ...]] = (("gradient",), ("gradient",))  # of each rule

    def __post_init__(self) -> None:
        self._check_members()
        shared = {name: value for name, value in self.rules[0].settings().items() if name in SHARED}
        members = (_with_shared(rule, shared) for rule in self.rules)
        object.__setattr__(self, "rules", tuple(Split(rule) if _needs_split(rule) else rule for rule in members))
        super().__post_init__()

    def _check_members(self) -> None:
        name, names = type(self).__name__, [settings_prefix(rule) for rule in self.rules]
        if len(names) != 2 or names[0] == names[1]:
            raise SettingError(
                f"{name}: rules must be two different rules, got {', '.join(names) or 'none'}. Pass two of them."
            )
        for rule, allowed in zip(self.rules, self._allowed_needs, strict=True):
            if rule.traits.needs not in allowed:
                remedy = f"Wrap the composite, as in SAM({name}(...))."
                if rule.traits.needs == "closure":
                    remedy = "Such a rule can come last: then(adam,lbfgs)."
                raise SettingError(
                    f"{name}: every rule must need gradients alone, got {rule.name}, which needs {rule.traits.needs}. "
                    f"{remedy}"
                )
            if rule.parts:
                raise SettingError(
                    f"{name}: no member may be a Routed rule, got {rule.name}. Put Routed outside, or wrap it all."
                )

    # Cached, since populations and schedules change numbers at every step, and these depend on no number.

    @cached_property
    def member_names(self) -> list[str]:
        """The names of the rules in settings."""
        return [settings_prefix(rule) for rule in self.rules]

    @cached_property
    def _setting_names(self) -> list[dict[str, str]]:
        """For each rule, the names of its settings in the composite, by the names in the rule."""
        return [
            {name: name if k == 0 or name in shared_settings(rule) else f"{prefix}_{name}" for name in rule.hypers()}
            for k, (prefix, rule) in enumerate(zip(self.member_names, self.rules, strict=True))
        ]

    @cached_property
    def _hypers(self) -> dict[str, Hyper]:
        hypers: dict[str, Hyper] = {}
        for prefix, rule, setting_names in zip(self.member_names, self.rules, self._setting_names, strict=True):
            for name, declared in rule.hypers().items():
                if setting_names[name] != name:
                    # A search opens the settings of the first rule before those of the others.
                    keyword = declared.keyword and f"{prefix}_{declared.keyword}"
                    declared = replace(declared, keyword=keyword, order=3)
                hypers.setdefault(setting_names[name], declared)
        return hypers | self.declared_hypers()

    @property
    def original_rules(self) -> list[Rule]:
        """The rules as they were passed, without the ``Split`` that the composite adds."""
        return [rule.inner if isinstance(rule, Split) else rule for rule in self.rules]

    @property
    def current_index(self) -> int:
        """The position of the rule that takes the step."""
        raise NotImplementedError

    @property
    def current(self) -> Rule:
        """The rule that takes the step."""
        return self.rules[self.current_index]

    def hypers(self) -> dict[str, Hyper]:
        return self._hypers

    def settings(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for rule, setting_names in zip(reversed(self.rules), reversed(self._setting_names), strict=True):
            values |= {setting_names[name]: value for name, value in rule.settings().items()}
        return {name: values[name] if name in values else getattr(self, name) for name in self._hypers}

    def _replace(self, settings: dict[str, Any]) -> Self:
        rules = []
        for rule, setting_names in zip(self.rules, self._setting_names, strict=True):
            changes = {name: settings[outer] for name, outer in setting_names.items() if outer in settings}
            rules.append(rule._replace(changes) if changes else rule)
        declared = {name: settings[name] for name in self.declared_hypers() if name in settings}
        return super()._replace({**declared, "rules": tuple(rules)})

    @cached_property
    def traits(self) -> Traits:
        return self.current.traits.combine([rule.traits for rule in self.rules])

    # All else is that of the current rule.

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        return self.current.layout(shape)

    def coefficients(self, step: int) -> Record:
        return self.current.coefficients(step)

    def base_lr(self, step: int) -> Any:
        return self.current.base_lr(step)

    def next_recurrent_scalars(self, step: int, previous: Any) -> dict[str, float]:
        return self.current.next_recurrent_scalars(step, previous)

    def missed_recurrent_scalars(self, previous: Any) -> dict[str, float]:
        return self.current.missed_recurrent_scalars(previous)

    def model_settings(self) -> dict[str, Any]:
        setting_names = self._setting_names[self.current_index]
        return {setting_names[name]: value for name, value in self.current.model_settings().items()}

    def model_coefficients(self, step: int, model_lr: float) -> dict[str, Any]:
        return self.current.model_coefficients(step, model_lr)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> RequestGenerator:
        return (yield from self._within_member(self.current.direction(param, grad, state, c)))

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> RequestGenerator:
        return (yield from self._within_member(self.current.apply(param, direction, state, c)))

    def _within_member(self, result: Any) -> RequestGenerator:
        """Run a step of the current rule; its reductions over the model cover its own parameters alone."""
        return (yield from within_part(resolve_reductions(result), self.member_names[self.current_index]))

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return self.current.evaluation_point(param, state, c)


def shared_settings(rule: Rule) -> tuple[str, ...]:
    """Return the settings of a rule that the rules of a composite share.

    A line search tries lengths relative to Newton's step, so its learning rate is none for gradients.
    """
    return tuple(name for name in SHARED if name != "lr" or rule.traits.needs != "closure")


def _needs_split(rule: Rule) -> bool:
    """Return True if a rule needs whole matrices and has no settings yet that split a parameter into several."""
    return rule.traits.needs_whole_matrices and "row_blocks" not in rule.hypers()


def _with_shared(rule: Rule, shared: Mapping[str, Any]) -> Rule:
    return rule.with_(
        **{name: value for name, value in shared.items() if name in rule.hypers() and name in shared_settings(rule)}
    )
