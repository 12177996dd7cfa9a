"""Implementation: how the optimizer of a contender is made, stepped and written as code.

There are three: a rule for all parameters, a rule that is routed over a model's parameters, and an external optimizer.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

import thalweg.optim
from thalweg import rules
from thalweg.comparison.contenders.external import ExternalOptimizer
from thalweg.engine import population
from thalweg.engine.core.precision import compute_dtype
from thalweg.errors import RoutingError, SettingError
from thalweg.optim.routing import NO_OVERRIDES, GroupOverrides, Routing, route
from thalweg.optim.settings import keywords
from thalweg.registry import name_of_rule, rule_from_name
from thalweg.rules import Rule, Wrapper
from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.explanation.setting_checks import find_conflicts

Model = nn.Module | Iterable[Any]  # or its parameters, in any form that torch.optim accepts
Roles = Mapping[str, str] | None

_Result = TypeVar("_Result")
_SHAPES = tuple(torch.Size([2] * dim) for dim in range(3))  # a rule may treat them differently
_MATRIX = torch.Size([64, 64])


@dataclass(frozen=True)
class Code:
    """Parts of the Python line that makes an optimizer; see ``ContenderRecord`` for their meaning."""

    optimizer: str
    arguments: str
    then: str
    source: str
    defaults: dict[str, Any]


class Implementation(Protocol):
    """Everything about a contender that depends on the kind of its optimizer."""

    @property
    def elementwise(self) -> bool:
        """True if every update of an element depends on this element alone."""

    @property
    def state_numbers(self) -> int:
        """Numbers of state for each number of a matrix."""

    def optimizer(self, model: Model, roles: Roles, whole: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return an optimizer of a model's trained parameters, or of parameters and groups.

        A routed rule needs a model: ``model`` or, beside parameters, the ``whole`` model that they are of.
        """

    def by_overrides(self, model: nn.Module, roles: Roles) -> dict[GroupOverrides, list[str]]:
        """Return the names of a model's trained parameters, by their overrides."""

    def program(self) -> Hashable:
        """Return a key; neighbours in a population that share it are stepped as one."""

    def state_bytes(self, model: nn.Module, roles: Roles) -> int:
        """Return the bytes of state for this model, without step counters."""

    def conflicts(self) -> Iterable[str]:
        """Return a message for each setting that contradicts the declarations of the rule."""

    def code(self, roles: Roles) -> Code:
        """Return the parts of the line that makes the optimizer."""


def _kind_of(model: Any) -> str:
    """Return what was passed in the place of a model, for a message."""
    if isinstance(model, list) and model:
        return "groups of parameters" if isinstance(model[0], Mapping) else "parameters"
    return f"a {type(model).__name__}"


def implementation_of(name: str, rule: Rule | ExternalOptimizer) -> Implementation:
    """Return the implementation of a rule or an external optimizer; ``name`` begins its error messages."""
    if isinstance(rule, ExternalOptimizer):
        return _External(name, rule)
    return _RoutedRule(name, rule) if rule.parts else _PlainRule(name, rule)


@dataclass(frozen=True)
class _PlainRule:
    """A rule that treats all parameters alike."""

    name: str
    rule: Rule

    @property
    def elementwise(self) -> bool:
        return self.rule.traits.scope == "elementwise"

    @property
    def state_numbers(self) -> int:
        return _numbers_of_matrix(self.rule)

    def optimizer(self, model: Model, roles: Roles, whole: nn.Module | None = None) -> torch.optim.Optimizer:
        return thalweg.optim.optimizer_for(self.rule.at_defaults())(_params(model), **keywords.from_rule(self.rule))

    def by_overrides(self, model: nn.Module, roles: Roles) -> dict[GroupOverrides, list[str]]:
        return {NO_OVERRIDES: [name for name, param in model.named_parameters() if param.requires_grad]}

    def program(self) -> Hashable:
        return population.program_key(self.rule, _SHAPES)

    def state_bytes(self, model: nn.Module, roles: Roles) -> int:
        params = dict(model.named_parameters())
        return sum(
            _state_bytes(overrides.apply_to(self.rule), params[name])
            for overrides, names in self.by_overrides(model, roles).items()
            for name in names
        )

    def conflicts(self) -> Iterable[str]:
        return find_conflicts(self.rule).values()

    def code(self, roles: Roles) -> Code:
        name = type(self.rule).__name__
        optimizer = name if name in thalweg.optim.__all__ else f"optimizer_for({_as_python(self.rule)})"
        defaults = {setting: hyper.default for setting, hyper in self.rule.hypers().items()}
        return Code(f"thalweg.optim.{optimizer}", "model.parameters()", "", "", defaults)


@dataclass(frozen=True)
class _RoutedRule(_PlainRule):
    """A rule with parts, which reads from the model which parameters each part gets."""

    @property
    def elementwise(self) -> bool:
        return all(rule.traits.scope == "elementwise" for rule in (self.rule, *self.rule.parts.values()))

    @property
    def state_numbers(self) -> int:
        return _numbers_of_matrix(next(iter(self.rule.parts.values())))  # the first part gets the matrices

    def optimizer(self, model: Model, roles: Roles, whole: nn.Module | None = None) -> torch.optim.Optimizer:
        if isinstance(model, nn.Module) or whole is None:
            return self._route(model, roles, Routing.optimizer)
        groups = model
        return self._route(whole, roles, lambda plan: plan.optimizer(groups))

    def by_overrides(self, model: nn.Module, roles: Roles) -> dict[GroupOverrides, list[str]]:
        by_overrides = self._route(model, roles, Routing.by_overrides)
        names = {key: [param.name for param in params if not param.frozen] for key, params in by_overrides.items()}
        return {overrides: trained for overrides, trained in names.items() if trained}

    def _route(self, model: Model, roles: Roles, read: Callable[[Routing], _Result]) -> _Result:
        """Route the model, and return what ``read`` returns of the plan."""
        if not isinstance(model, nn.Module):
            raise SettingError(
                f"{self.name}: it must get the model, whose modules show what its parameters are for, got "
                f"{_kind_of(model)}. Call make_optimizer(model), or make_optimizer(groups, model=model)."
            )
        try:
            return read(route(model, self.rule, roles=roles))
        except RoutingError as error:
            raise RoutingError(
                f"{self.name}: {error} In a task, pass roles=; in a training function, call "
                "make_optimizer(model, roles)."
            ) from None

    def code(self, roles: Roles) -> Code:
        name = name_of_rule(self.rule)
        arguments = f"model, {_as_python(self.rule) if name is None else repr(name)}"
        arguments += f", roles={dict(roles)!r}" if roles else ""
        defaults = (self.rule.at_defaults() if name is None else rule_from_name(name)).settings()
        return Code("thalweg.optim.route", arguments, ".optimizer()", "", defaults)


@dataclass(frozen=True)
class _External:
    """An optimizer of another library or of the user."""

    name: str
    external: ExternalOptimizer

    @property
    def elementwise(self) -> bool:
        return False

    @property
    def state_numbers(self) -> int:
        return _numbers_of_matrix(self.external)

    def optimizer(self, model: Model, roles: Roles, whole: nn.Module | None = None) -> torch.optim.Optimizer:
        return self.external.optimizer(_params(model))

    def by_overrides(self, model: nn.Module, roles: Roles) -> dict[GroupOverrides, list[str]]:
        raise AssertionError(f"{self.name} is no rule, and trains in no population")

    def program(self) -> Hashable:
        return self.name

    def state_bytes(self, model: nn.Module, roles: Roles) -> int:
        return sum(_state_bytes(self.external, param) for param in _params(model))

    def conflicts(self) -> Iterable[str]:
        return ()

    def code(self, roles: Roles) -> Code:
        module, _, name = self.external.path.rpartition(":")
        optimizer = name if module.endswith(".py") else f"{module}.{name}"
        defaults = {setting: hyper.default for setting, hyper in self.external.hypers().items()}
        del defaults["lr"]  # always written: it may have no default
        return Code(optimizer, "model.parameters()", "", self.external.source(), defaults)


def _params(model: Model) -> Iterable[Any]:
    if isinstance(model, nn.Module):
        return [param for param in model.parameters() if param.requires_grad]
    return model


def _numbers_of_matrix(rule: Rule | ExternalOptimizer) -> int:
    return rule.state_numel(_MATRIX) // _MATRIX.numel()


def _state_bytes(rule: Rule | ExternalOptimizer, param: torch.Tensor) -> int:
    return rule.state_numel(param.shape) * compute_dtype(param.dtype).itemsize


def _as_python(rule: Rule) -> str:
    """Return a rule of the library, or of a user, as Python."""
    kind = type(rule).__name__
    if isinstance(rule, CompositeRule):
        return f"thalweg.rules.{kind}(({', '.join(map(_as_python, rule.original_rules))}))"
    if isinstance(rule, Wrapper):
        return f"thalweg.rules.{kind}({_as_python(rule.inner)})"
    return f"thalweg.rules.{kind}()" if kind in rules.__all__ else kind
