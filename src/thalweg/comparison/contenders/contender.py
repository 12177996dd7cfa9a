"""Contender: an optimizer in a comparison, with settings that are pinned and settings that are searched."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

from thalweg.comparison.contenders.external import ExternalOptimizer
from thalweg.comparison.contenders.implementation import Implementation, Model, Roles, implementation_of
from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.errors import KeywordError, TaskError, nearest_setting
from thalweg.optim.routing import GroupOverrides
from thalweg.optim.setting_warnings import suppress_warnings, warn
from thalweg.optim.settings import keywords
from thalweg.rules import Range, Rule
from thalweg.tasks.tuning.tunable import Tunable

Settings = dict[str, Any]  # numbers; of a task's own choices also texts, booleans and None
_Value = TypeVar("_Value")

MAX_ORDER = 3  # of a setting; the largest budgets search settings of any order
REMARKABLE_ORDER = 2  # the result depends on these most: a choice at an end of its range is worth a caution


def full_name(optimizer: str, setting: str) -> str:
    """Return the name of a setting of one of the optimizers of a training: ``d.lr``; ``lr`` if it has no name."""
    return f"{optimizer}.{setting}" if optimizer else setting


@dataclass(frozen=True)
class Contender:
    """An optimizer in a comparison.

    Attributes:
        name: Name in the comparison, unique there.
        rule: The optimizer at its starting settings.
        about: One line on it.
        pinned: Settings that are not searched.
        full_batch: True if a step sees all training data, so that a pass over them is a single step.
        ends_on_full_batch: True if steps that call a closure several times see all training data, and others a batch.
        ranges: Search ranges by setting that replace the declared ones.
        schedule: Name of a learning rate schedule that replaces that of the comparison; None replaces nothing.
        recommended: Settings to start from that do well on many tasks; empty if unknown.
        task_settings: Numbers and choices of the task that are tuned with the contender's own settings.
        task_code: Lines of Python with a place ``{name}`` for the value of each of these numbers.
        optimizer_names: Names of the optimizers of one training, each with settings of its own (``d.lr``). An empty
            name stands for the optimizers without a name.
        user_settings: Settings of the user's that enter the search first.
        members: A contender for each optimizer of a training, by its name; empty if one serves all. The first one's
            rule is then also that of the whole.

    Example:
        >>> import thalweg
        >>> contender = Contender("mine", thalweg.rules.SGD(momentum=0.9), pinned=frozenset({"momentum"}))
        >>> sorted(contender.space(3))
        ['lr', 'weight_decay']
    """

    name: str
    rule: Rule | ExternalOptimizer
    about: str = ""
    pinned: frozenset[str] = field(default_factory=frozenset)
    full_batch: bool = False
    ranges: Mapping[str, Range] = field(default_factory=dict)
    schedule: str | None = None
    recommended: Mapping[str, float] = field(default_factory=dict)
    task_settings: Mapping[str, Tunable] = field(default_factory=dict)
    task_code: tuple[str, ...] = ()
    optimizer_names: tuple[str, ...] = ("",)
    user_settings: tuple[Mapping[str, float], ...] = ()
    ends_on_full_batch: bool = False
    members: Mapping[str, "Contender"] = field(default_factory=dict)

    def member(self, optimizer: str) -> "Contender":
        """Return the contender of one of the optimizers of a training: its own, or this one.

        Raises:
            TaskError: If there is a contender for each name, and none for this one.
        """
        if self.members and optimizer not in self.members:
            named = f"one that is called {optimizer!r}" if optimizer else "one without a name"
            raise TaskError(
                f"{self.name}: the optimizers of the training must be called {' and '.join(map(repr, self.members))}, "
                f"got {named}. Write make_optimizer(model, name={next(filter(None, self.members), 'd')!r}), or name a "
                "contender for it."
            )
        return self.members.get(optimizer, self)

    def space(self, order: int) -> dict[str, Range]:
        """Return the range of each setting that is searched.

        Args:
            order: Settings up to this order are searched, 1 to 3, unless they are pinned; settings in ``ranges`` and
                the tuned numbers of the task are searched in any case.
        """
        shared = {name: tunable.search for name, tunable in self.task_settings.items()}
        # A plan replaces ranges of named optimizers one by one.
        own = self._for_each_optimizer(lambda member: member._own_ranges(order))
        space = {name: self.ranges.get(name, bounds) for name, bounds in own.items()}
        return {name: bounds for name, bounds in (space | shared).items() if bounds is not None}

    def _own_ranges(self, order: int) -> dict[str, Range | None]:
        return {
            name: self.ranges.get(name, declared.search)
            for name, declared in self.rule.hypers().items()
            if (declared.order <= order or name in self.ranges) and name not in self.pinned
        }

    def order_of(self, setting: str) -> int:
        """Return the order in which a search opens a setting; a tuned number of the task counts as a momentum does."""
        optimizer, _, own = setting.rpartition(".")
        hyper = None if setting in self.task_settings else self.member(optimizer).rule.hypers().get(own)
        return REMARKABLE_ORDER if hyper is None or setting in self.task_settings else hyper.order

    def start_settings(self) -> dict[str, Any]:
        """Return the value of each setting before the search: the optimizer's and the task's defaults."""
        shared = {name: tunable.default for name, tunable in self.task_settings.items()}
        return self._for_each_optimizer(lambda member: member.rule.settings()) | shared

    def for_optimizers(self, names: tuple[str, ...]) -> "Contender":
        """Return the contender for trainings with several optimizers of these names, each with its own settings.

        Raises:
            KeywordError: If a setting of the user's is for an optimizer that no training makes.
            TaskError: If there is a contender for each name, and not for these.
        """
        for name in names:
            self.member(name)
        for name in self.members.keys() - set(names):
            raise TaskError(
                f"{self.name}: the training must make an optimizer that is called {name!r}, and does not. Write "
                f"make_optimizer(model, name={name!r}), or leave {name} out."
            )
        named = replace(self, optimizer_names=names)
        return replace(
            named,
            recommended=named.expanded(self.recommended),
            user_settings=tuple(named.expanded(settings) for settings in self.user_settings),
        )

    def expanded(self, settings: Mapping[str, float]) -> Settings:
        """Return settings under their full names: ``lr`` is the setting of each named optimizer, ``d.lr`` that of one.

        Raises:
            KeywordError: If there is no setting of a name.
        """
        hypers = {name for member in self.members.values() or [self] for name in member.rule.hypers()}
        own = {name: value for name, value in settings.items() if name in hypers and name not in self.task_settings}
        full = {name: value for name, value in settings.items() if name not in own}
        known = self.start_settings()
        for name in full:
            if name not in known:
                raise KeywordError(
                    f"{self.name}: the settings are {', '.join(known)}, got {name!r}. {nearest_setting(name, known)}"
                )
        return self._for_each_optimizer(lambda member: member._known(own)) | full

    def _known(self, settings: Mapping[str, _Value]) -> dict[str, _Value]:
        """Return those of some settings that this contender has."""
        hypers = self.rule.hypers()
        return {name: value for name, value in settings.items() if name in hypers}

    def own_settings(self, settings: Mapping[str, float], name: str = "") -> Settings:
        """Return the settings of one optimizer of a training, under the names of the rule.

        Args:
            settings: Settings of a trial; those without a name of an optimizer are for all of them.
            name: The name of the optimizer; empty if it has none.
        """
        own = {key: value for key, value in settings.items() if "." not in key and key not in self.task_settings}
        own = {} if self.members and name else own  # those of the optimizer without a name
        prefix = f"{name}."
        named = {key.removeprefix(prefix): value for key, value in settings.items() if name and key.startswith(prefix)}
        return own | named

    def task_values(self, settings: Mapping[str, Any]) -> Settings:
        """Return the value of each tuned argument of the task at the settings of a trial."""
        return {
            name: tunable.value(settings.get(name, tunable.default)) for name, tunable in self.task_settings.items()
        }

    def _for_each_optimizer(self, settings: Callable[["Contender"], Mapping[str, _Value]]) -> dict[str, _Value]:
        """Return the settings of each optimizer, which a function reads from its contender, under their full names."""
        return {
            full_name(optimizer, name): value
            for optimizer in self.optimizer_names
            for name, value in settings(self.member(optimizer)).items()
        }

    @property
    def population_key(self) -> Hashable:
        """A key; contenders that share it may train in one population.

        Elementwise rules share it if their batches are of one kind, other optimizers with no other contender. Gradients
        take most of the time of an elementwise rule's training, so the time of one rule serves for all.
        """
        return self.full_batch, None if self._implementation.elementwise else self.name

    @property
    def thalweg_rule(self) -> Rule | None:
        """The rule; None for an external optimizer."""
        return self.rule if isinstance(self.rule, Rule) else None

    @property
    def needs(self) -> set[str]:
        """The needs of the rules of all its optimizers, such as a closure."""
        rules = [member.rule for member in self.members.values() or [self]]
        return {rule.traits.needs for rule in rules if isinstance(rule, Rule)}

    @property
    def _implementation(self) -> Implementation:
        return implementation_of(self.name, self.rule)

    @property
    def routes(self) -> bool:
        """True if one of its optimizers reads from the model which rule each parameter gets."""
        rules = [member.rule for member in self.members.values() or [self]]
        return any(isinstance(rule, Rule) and bool(rule.parts) for rule in rules)

    def keeping_the_optimum(self) -> "Contender":
        """Return this contender for a task whose optimum is known: settings that move it (weight decay) are off.

        Settings that the user pinned or searches stay as they are.
        """
        moving = {name for name, hyper in self.rule.hypers().items() if hyper.moves_optimum}
        moving -= self.pinned | self.ranges.keys()
        return replace(self, rule=self.rule.with_(**dict.fromkeys(moving, 0.0)), pinned=self.pinned | moving)

    def optimizer(
        self,
        model: Model,
        settings: Mapping[str, float],
        roles: Roles = None,
        *,
        name: str = "",
        whole: nn.Module | None = None,
    ) -> torch.optim.Optimizer:
        """Return a torch optimizer.

        Settings that a search tries raise no warnings; ``warn_of_settings`` is for the user's own.

        Args:
            model: The model, whose trained parameters are optimized; or parameters or groups.
            settings: Values that replace those the contender starts from.
            roles: Roles of parameters by name, for a contender that routes.
            name: Name of the optimizer, if a training has several.
            whole: The model of these parameters or groups, which a contender that routes needs.

        Raises:
            SettingError: If a contender that routes gets parameters without their model.
            RoutingError: If the role of a parameter is ambiguous.
        """
        with suppress_warnings():
            own = self.member(name)
            rule = own.rule.with_(**self.own_settings(settings, name))
            return implementation_of(own.name, rule).optimizer(model, roles, whole)

    def by_overrides(self, model: nn.Module, roles: Roles) -> dict[GroupOverrides, list[str]]:
        """Return the names of a model's trained parameters, by their overrides; only for a rule."""
        return self._implementation.by_overrides(model, roles)

    def warn_of_settings(self) -> None:
        """Warn of settings of the user that contradict the declarations of the rule."""
        for member in self.members.values() or [self]:
            for message in member._implementation.conflicts():
                warn(message)

    def rule_at(self, settings: Mapping[str, float]) -> Rule:
        """Return the rule at these settings; only for a contender that has a rule."""
        rule = self.rule.with_(**self.own_settings(settings))
        assert isinstance(rule, Rule), self.name
        return rule

    def program(self, settings: Mapping[str, float]) -> Hashable:
        """Return a key; neighbours in a population that share it are stepped as one."""
        return implementation_of(self.name, self.rule.with_(**self.own_settings(settings))).program()

    @property
    def state_numbers(self) -> int:
        """Numbers of optimizer state for each number of a matrix; of several optimizers the most."""
        return max(member._implementation.state_numbers for member in self.members.values() or [self])

    def state_bytes(self, model: nn.Module, roles: Roles) -> int:
        """Return the bytes of optimizer state for this model, without step counters."""
        return self._implementation.state_bytes(model, roles)

    def describe(self, roles: Roles = None) -> ContenderRecord:
        """Return everything that a report needs to know of this contender.

        Args:
            roles: Roles of parameters by name, for the code of a contender that routes.

        Returns:
            A record whose ``state_bytes`` and ``searched``, which depend on the comparison, are left at their defaults.
        """
        code = self._implementation.code(roles)
        return ContenderRecord(
            name=self.name,
            about=self.about,
            optimizer=code.optimizer,
            arguments=code.arguments,
            then=code.then,
            source=code.source,
            full_batch=self.full_batch,
            schedule=self.schedule,
            start=self.start_settings(),
            recommended=dict(self.recommended),
            defaults=code.defaults,
            keywords=keywords.names_by_keyword(self.rule.hypers()),
            space=self.space(MAX_ORDER),
            remarkable=list(self.space(REMARKABLE_ORDER)),
            state_numbers=self.state_numbers,
            task_code=list(self.task_code),
            optimizer_names=list(self.optimizer_names),
            user_settings=[dict(settings) for settings in self.user_settings],
            members={name: member.describe(roles) for name, member in self.members.items()},
        )
