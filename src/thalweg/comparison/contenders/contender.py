"""Contender: an optimizer in a comparison, some of its settings pinned, the others to be searched."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

import thalweg.optim
from thalweg import rules
from thalweg.comparison.contenders.external import ExternalOptimizer
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.engine import population
from thalweg.engine.core.precision import compute_dtype
from thalweg.errors import RoutingError, SettingError
from thalweg.optim import keywords
from thalweg.optim.routing import UNCHANGED, Routing, Treatment, route
from thalweg.optim.setting_warnings import suppress_warnings, warn
from thalweg.registry import name_of_rule, rule_from_name
from thalweg.rules import Range, Rule, Wrapper
from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.explanation.setting_checks import find_conflicts

Settings = dict[str, float]

_T = TypeVar("_T")
_SHAPES = tuple(torch.Size([2] * dim) for dim in range(3))  # that a rule may treat differently


@dataclass(frozen=True)
class Contender:
    """A named entry in a comparison: an optimizer at its starting settings, which of them are pinned, and its batch.

    With `full_batch` a step sees the whole training data, so a pass over them is a single step. `ranges` are searched
    in place of those that are declared; `schedule` replaces that of the comparison. `recommended` are settings to start
    from that do well on many tasks, where they are known.
    """

    name: str
    rule: Rule | ExternalOptimizer
    about: str = ""
    pinned: frozenset[str] = field(default_factory=frozenset)
    full_batch: bool = False
    ranges: Mapping[str, Range] = field(default_factory=dict)
    schedule: str | None = None
    recommended: Mapping[str, float] = field(default_factory=dict)

    def space(self, order: int) -> dict[str, Range]:
        """The ranges to search: settings that open by this `order` and are not pinned, and those with a range given."""
        found = {
            name: self.ranges.get(name, declared.search)
            for name, declared in self.rule.hypers().items()
            if (declared.order <= order or name in self.ranges) and name not in self.pinned
        }
        return {name: within for name, within in found.items() if within is not None}

    @property
    def population_key(self) -> Hashable:
        """Who may train beside it in one population: elementwise rules, by what a step sees; others by themselves.

        Gradients are most of the time of an elementwise rule's training, so that of one tells that of all.
        """
        rules = (self.rule, *self.rule.parts.values()) if isinstance(self.rule, Rule) else ()
        elementwise = rules and all(rule.scope == "elementwise" for rule in rules)
        return self.full_batch, None if elementwise else self.name

    def keeping_the_optimum(self) -> "Contender":
        """This contender for a task whose optimum is known: what moves the optimum (weight decay) is off.

        A setting that a user pinned stays as it is.
        """
        moving = {name for name, one in self.rule.hypers().items() if one.moves_optimum}
        moving -= self.pinned | self.ranges.keys()
        return replace(self, rule=self.rule.with_(**dict.fromkeys(moving, 0.0)), pinned=self.pinned | moving)

    def optimizer(
        self, model: nn.Module | Iterable[Any], settings: Mapping[str, float], roles: Mapping[str, str] | None = None
    ) -> torch.optim.Optimizer:
        """A torch optimizer at these settings, of a model's trained parameters; or of parameters, unless it routes.

        What a search tries is not doubted: that is for those who choose settings (`warn_of_settings`).
        """
        with suppress_warnings():
            return self._optimizer(model, settings, roles)

    def _optimizer(
        self, model: nn.Module | Iterable[Any], settings: Mapping[str, float], roles: Mapping[str, str] | None
    ) -> torch.optim.Optimizer:
        rule = self.rule.with_(**settings)
        if isinstance(rule, Rule) and rule.parts:
            return self._routed(model, rule, roles, Routing.optimizer)
        if isinstance(model, nn.Module):
            model = [param for param in model.parameters() if param.requires_grad]
        if isinstance(rule, ExternalOptimizer):
            return rule.optimizer(model)
        return thalweg.optim.optimizer_for(rule.at_defaults())(model, **keywords.from_rule(rule))

    def _routed(self, model: Any, rule: Rule, roles: Mapping[str, str] | None, wanted: Callable[[Routing], _T]) -> _T:
        """What is wanted of the plan of a rule that has parts."""
        if not isinstance(model, nn.Module):
            raise SettingError(
                f"{self.name}: it must see the model, whose parts tell what its parameters are for, got "
                f"{type(model).__name__}. Call make_optimizer(model)."
            )
        try:
            return wanted(route(model, rule, roles=roles))
        except RoutingError as error:
            raise RoutingError(
                f"{self.name}: {error} A task says it by roles=, make_optimizer(model, roles) too."
            ) from None

    def treatments(self, model: nn.Module, roles: Mapping[str, str]) -> dict[Treatment, list[str]]:
        """The names of a model's parameters that are treated alike."""
        assert isinstance(self.rule, Rule), self.name
        if not self.rule.parts:
            return {UNCHANGED: [name for name, param in model.named_parameters() if param.requires_grad]}
        found = self._routed(model, self.rule, roles, Routing.treatments)
        return {treatment: [one.name for one in ones] for treatment, ones in found.items()}

    def warn_of_settings(self) -> None:
        """Warn of settings that a user gave and that contradict what its rule declares."""
        if isinstance(self.rule, Rule):
            for message in find_conflicts(self.rule).values():
                warn(message)

    def rule_at(self, settings: Mapping[str, float]) -> Rule:
        """The rule at these settings, of a contender that has one."""
        rule = self.rule.with_(**settings)
        assert isinstance(rule, Rule), self.name
        return rule

    def program(self, settings: Mapping[str, float]) -> Hashable:
        """What neighbours in a population must share, to be stepped as one."""
        if isinstance(self.rule, ExternalOptimizer):
            return self.name
        return population.program(self.rule_at(settings), _SHAPES)

    @property
    def state_numbers(self) -> int:
        """How many numbers it keeps for each number of a matrix."""
        if isinstance(self.rule, Rule) and self.rule.parts:  # a matrix follows the first
            return next(iter(self.rule.parts.values())).state_numel(torch.Size([64, 64])) // 4096
        return self.rule.state_numel(torch.Size([64, 64])) // 4096

    def state_bytes(self, model: nn.Module, roles: Mapping[str, str]) -> int:
        """Bytes of optimizer state for this model, the step counters left out."""
        params = {name: param for name, param in model.named_parameters() if param.requires_grad}
        if isinstance(self.rule, ExternalOptimizer):
            kept = [(param, self.rule.state_numel(param.shape)) for param in params.values()]
        else:
            kept = [
                (params[name], treatment.of(self.rule).state_numel(params[name].shape))
                for treatment, names in self.treatments(model, roles).items()
                for name in names
            ]
        return sum(numel * compute_dtype(param.dtype).itemsize for param, numel in kept)

    def describe(self, roles: Mapping[str, str] | None = None) -> ContenderRecord:
        """Return everything a report needs to know of this contender.

        Args:
            roles: Roles of parameters by name, for the code of a routed contender.

        Returns:
            A record whose ``state_bytes`` and ``searched``, which depend on the comparison, are left at their defaults.
        """
        declared = self.rule.hypers()
        arguments, then = "model.parameters()", ""
        defaults = {name: hyper.default for name, hyper in declared.items()}
        if isinstance(self.rule, Rule) and self.rule.parts:
            optimizer, then = "thalweg.optim.route", ".optimizer()"
            name = name_of_rule(self.rule)
            arguments = f"model, {_written(self.rule) if name is None else repr(name)}"
            arguments += f", roles={dict(roles)!r}" if roles else ""
            defaults = (self.rule.at_defaults() if name is None else rule_from_name(name)).settings()
        elif isinstance(self.rule, ExternalOptimizer):
            home, _, name = self.rule.path.rpartition(":")
            optimizer = name if home.endswith(".py") else f"{home}.{name}"
        else:
            made_of = type(self.rule).__name__
            ours = made_of if made_of in thalweg.optim.__all__ else f"optimizer_for({_written(self.rule)})"
            optimizer = f"thalweg.optim.{ours}"
        return ContenderRecord(
            name=self.name,
            about=self.about,
            optimizer=optimizer,
            arguments=arguments,
            then=then,
            source=self.rule.source() if isinstance(self.rule, ExternalOptimizer) else "",
            full_batch=self.full_batch,
            schedule=self.schedule,
            start=self.rule.settings(),
            recommended=dict(self.recommended),
            # The learning rate of another library's optimizer is always written: it may have no default.
            defaults={name: value for name, value in defaults.items() if name != "lr" or isinstance(self.rule, Rule)},
            keywords=keywords.names_by_keyword(declared),
            space=self.space(3),
            # The result depends on these most: a choice at an end of its range is worth a caution.
            remarkable=list(self.space(2)),
            state_numbers=self.state_numbers,
        )


def _written(rule: Rule) -> str:
    """A rule of the library's, or of a user's own, as Python."""
    kind = type(rule).__name__
    if isinstance(rule, CompositeRule):
        return f"thalweg.rules.{kind}(({', '.join(map(_written, rule.original_rules))}))"
    if isinstance(rule, Wrapper):
        return f"thalweg.rules.{kind}({_written(rule.inner)})"
    return f"thalweg.rules.{kind}()" if kind in rules.__all__ else kind
