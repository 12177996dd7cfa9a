"""Several: what rules share that are made of several rules, of which one is followed at a time.

The first rule's settings have their own names, the others' the rule's name in front (`adamw_eps`); the learning rate
and weight decay are everybody's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from thalweg.errors import SettingError
from thalweg.rules.composition.split import Split
from thalweg.rules.composition.wrapper import unwrap
from thalweg.rules.core.hyper import Hyper
from thalweg.rules.core.reductions import ReductionGenerator, resolve_reductions
from thalweg.rules.core.rule import Rule, own_hypers
from thalweg.rules.core.state import StateTensor
from thalweg.rules.core.traits import Traits

SHARED = ("lr", "weight_decay")


def settings_prefix(rule: Rule) -> str:
    """What a rule is called in settings: its file, or its class for a rule of a user's own."""
    kind = type(unwrap(rule))
    ours = kind.__module__.startswith("thalweg.rules.")
    return kind.__module__.rpartition(".")[2] if ours else kind.__name__.lower()


@dataclass(frozen=True)
class CompositeRule(Rule):
    """Several rules as one. Abstract."""

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        kind, names = type(self).__name__, [settings_prefix(rule) for rule in self.rules]
        if len(names) != 2 or names[0] == names[1]:
            raise SettingError(f"{kind}: rules must be two different ones, got {', '.join(names) or 'none'}.")
        for rule in self.rules:
            if rule.traits.needs != "gradient":
                raise SettingError(
                    f"{kind}: every rule must need gradients alone, got {rule.name}, which needs {rule.traits.needs}. "
                    f"Wrap the whole, as in SAM({kind}(...))."
                )
            if rule.parts:
                raise SettingError(
                    f"{kind}: what has parts must be the whole, got {rule.name}. Wrap the whole instead."
                )
        shared = {name: value for name, value in self.rules[0].settings().items() if name in SHARED}
        made = (_with_known(rule, shared) for rule in self.rules)
        object.__setattr__(self, "rules", tuple(Split(one) if _whole(one) else one for one in made))
        super().__post_init__()

    # What does not depend on numbers is found once: populations and schedules change numbers at every step.

    @cached_property
    def names(self) -> list[str]:
        """What the rules are called."""
        return [settings_prefix(rule) for rule in self.rules]

    @cached_property
    def _known(self) -> list[dict[str, str]]:
        """For each rule, its settings with their names here."""
        return [
            {own: own if k == 0 or own in SHARED else f"{name}_{own}" for own in rule.hypers()}
            for k, (name, rule) in enumerate(zip(self.names, self.rules, strict=True))
        ]

    @cached_property
    def _hypers(self) -> dict[str, Hyper]:
        found: dict[str, Hyper] = {}
        for name, rule, known in zip(self.names, self.rules, self._known, strict=True):
            for own, declared in rule.hypers().items():
                # A search opens the settings of the first rule before those of the rest.
                keyword = declared.keyword and f"{name}_{declared.keyword}"
                other = declared if known[own] == own else replace(declared, keyword=keyword, order=3)
                found.setdefault(known[own], other)
        return found | own_hypers(type(self))  # type: ignore[arg-type]  # a class is hashable

    @property
    def original_rules(self) -> list[Rule]:
        """The rules as they were given: what was added, to split parameters, is left out."""
        return [rule.inner if isinstance(rule, Split) else rule for rule in self.rules]

    @property
    def current(self) -> Rule:
        """The rule that is followed."""
        raise NotImplementedError

    def hypers(self) -> dict[str, Hyper]:
        return self._hypers

    def settings(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for rule, known in zip(reversed(self.rules), reversed(self._known), strict=True):
            values |= {known[own]: value for own, value in rule.settings().items()}
        return {name: values[name] if name in values else getattr(self, name) for name in self._hypers}

    def _with(self, settings: dict[str, Any]) -> Self:
        rules = []
        for rule, known in zip(self.rules, self._known, strict=True):
            theirs = {name: settings[there] for name, there in known.items() if there in settings}
            rules.append(rule._with(theirs) if theirs else rule)
        own = {name: settings[name] for name in own_hypers(type(self)) if name in settings}  # type: ignore[arg-type]
        return super()._with({**own, "rules": tuple(rules)})

    @cached_property
    def traits(self) -> Traits:
        return self.current.traits.combine([rule.traits for rule in self.rules])

    # All else is as the rule says that is followed.

    def layout(self, shape: torch.Size) -> dict[str, StateTensor]:
        return self.current.layout(shape)

    def coefficients(self, step: int) -> Any:
        return self.current.coefficients(step)

    def rate(self, step: int) -> Any:
        return self.current.rate(step)

    def next_recurrent_scalars(self, step: int, before: Any) -> dict[str, float]:
        return self.current.next_recurrent_scalars(step, before)

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        return (yield from resolve_reductions(self.current.direction(param, grad, state, c)))

    def apply(self, param: Tensor, direction: Tensor, state: Any, c: Any) -> ReductionGenerator:
        return (yield from resolve_reductions(self.current.apply(param, direction, state, c)))

    def evaluation_point(self, param: Tensor, state: Any, c: Any) -> Tensor:
        return self.current.evaluation_point(param, state, c)


def _whole(rule: Rule) -> bool:
    """Whether it takes whole matrices, and so must be told where several are one parameter."""
    return rule.traits.needs_whole_matrices and "row_blocks" not in rule.hypers()


def _with_known(rule: Rule, settings: Mapping[str, Any]) -> Rule:
    return rule.with_(**{name: value for name, value in settings.items() if name in rule.hypers()})
