"""Routing: the rule of each parameter of a model, with its learning rate, its weight decay and the reason.

The result is a plan to be read before training: print it, then create the optimizer with `optimizer()`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from thalweg.errors import KeywordError, ParameterTypeError, RoutingError, SettingError, nearest, shown
from thalweg.optim.optimizer import RuleOptimizer
from thalweg.optim.parameters.parameter_checks import can_be_trained
from thalweg.optim.routing import plan_table
from thalweg.optim.routing.assignment import Assignment, GroupOverrides
from thalweg.optim.routing.own_groups import divide_groups
from thalweg.optim.routing.role import MATRIX_ROLES, ROLES, UNDECAYED_ROLES
from thalweg.optim.routing.roles import ParameterRole, roles_of
from thalweg.optim.rule_classes import optimizer_for
from thalweg.optim.setting_warnings import warn
from thalweg.optim.settings import keywords
from thalweg.registry import as_rule, combine_rules
from thalweg.rules import Rule
from thalweg.rules.composition.composite import settings_prefix
from thalweg.rules.composition.routed import Routed
from thalweg.rules.composition.wrapper import unwrap
from thalweg.rules.core.hyper import Bound, Hyper


@dataclass(frozen=True, repr=False, eq=False)
class RoutingPlan:
    """The rule of every parameter of a model. Print it to read it.

    Frozen parameters have a rule too: they take steps from the moment at which they have a gradient. Until then they
    have no state.

    Attributes:
        rule: The rule of the whole model.
        parameters: An assignment for each parameter, except for integers (quantized weights).
        frozen: The number of parameters in the plan that required no gradient when the model was routed.
        left_out: The number of parameters of a dtype that is not trained, such as integers.
    """

    rule: Rule
    parameters: tuple[Assignment, ...]
    frozen: int
    left_out: int = 0

    @property
    def questions(self) -> list[Assignment]:
        """The parameters whose role is ambiguous. Frozen ones are no question: they get the second rule."""
        return [assignment for assignment in self.parameters if assignment.role is None and not assignment.frozen]

    def _check_answered(self) -> None:
        if questions := self.questions:
            lines = "\n".join(
                f"    {question.name}  {plan_table.shape_text(question.shape)}: {question.why}"
                for question in questions
            )
            raise RoutingError(
                f"route: the role of every parameter must be known, got {len(questions)} ambiguous ones:\n"
                f"{lines}\nPass the role of each, for example roles={{{questions[-1].name!r}: 'head'}}. If the model "
                "has no last layer, pass headless=True."
            )

    def groups(self, own: Iterable[Any] | None = None) -> list[dict[str, Any]]:
        """Return the parameter groups of the optimizer, with the names of the parameters.

        The names are those in the model without wrappers (``torch.compile``, ``DataParallel``, DDP, FSDP), so that a
        checkpoint fits the model with and without them.

        Args:
            own: Parameters or groups of yours, which are divided among the rules. A setting in a group replaces that
                of the plan. Defaults to all parameters.

        Raises:
            RoutingError: If the role of a parameter is ambiguous, or a parameter is none of the model's.
        """
        if own is not None:
            self._check_answered()
            return divide_groups(self.rule, self.parameters, own)
        return [
            {
                "params": [(assignment.name, assignment.param) for assignment in assignments],
                **keywords.from_rule(overrides.apply_to(self.rule)),
            }
            for overrides, assignments in self.by_overrides().items()
        ]

    def by_overrides(self) -> dict[GroupOverrides, list[Assignment]]:
        """Return the parameters of each set of overrides.

        Raises:
            RoutingError: If the role of a parameter is ambiguous.
        """
        self._check_answered()
        assignments: dict[GroupOverrides, list[Assignment]] = {}
        for assignment in self.parameters:
            assignments.setdefault(assignment.overrides, []).append(assignment)
        return assignments

    def optimizer(self, groups: Iterable[Any] | None = None, **common: Any) -> RuleOptimizer:
        """Create one optimizer for the whole model, or for some of its parameters.

        Args:
            groups: Parameters or groups of yours, such as ``[{"params": model.head.parameters(), "lr": 0.1}, ...]``,
                which are divided among the rules. Their settings replace those of the plan; a learning rate is that of
                the first rule. Defaults to all parameters.
            **common: Keywords that every optimizer has: ``maximize``, ``rounding``, ``seed``, ``backend``.

        Returns:
            The optimizer, with a group for each set of overrides.

        Raises:
            RoutingError: If the role of a parameter is ambiguous, or a parameter is none of the model's.
            KeywordError: If a keyword is a setting of a rule, which `route` takes, or unknown.
        """
        if unknown := common.keys() - keywords.COMMON.keys():
            raise KeywordError(
                f"RoutingPlan: optimizer() takes {', '.join(keywords.COMMON)}, got {', '.join(sorted(unknown))}. "
                "Settings are given to route()."
            )
        kind = optimizer_for(self.rule.at_defaults())
        return kind(self.groups(groups), **keywords.from_rule(self.rule), **common)

    def __str__(self) -> str:
        """Return a table with a line for each parameter; those of repeated blocks share a line."""
        lines = plan_table.lines(self.rule, self.parameters)
        numel = sum(assignment.param.numel() for assignment in self.parameters)
        frozen = f"; {self.frozen} frozen, stepped once they require a gradient" if self.frozen else ""
        left_out = f"; {self.left_out} of integers left out" if self.left_out else ""
        lines.append(f"{len(self.parameters)} parameters, {numel:,} numbers{frozen}{left_out}.")
        if self.questions:
            lines.append(f"Ambiguous: {len(self.questions)}. Pass their roles, roles={{name: role}}.")
        return "\n".join(lines)

    __repr__ = __str__


Routing = RoutingPlan  # the former name
_HEADLESS = Hyper(False, "", kind="switch")
_SCALE = Hyper(1.0, "", bound=Bound(">= 0"))


def route(
    model: nn.Module,
    rule: str | Rule | type[Rule] = "muon",
    rest: str | Rule | type[Rule] | None = None,
    *,
    roles: Mapping[str, str] | None = None,
    headless: bool = False,
    lr_scale: Mapping[str, float] | None = None,
    decay_scale: Mapping[str, float] | None = None,
    **settings: Any,
) -> RoutingPlan:
    """Assign each parameter of a model to an optimizer rule.

    Hidden matrices and convolutions follow the first rule; embeddings, heads, norms, biases and all others follow the
    second. Roles are found from the types of modules, from shared parameters, from shapes and, last, from names. If a
    role is ambiguous, the plan lists the parameter under ``questions`` and asks you.

    Muon given by its name moves parameters as far as AdamW does at the same learning rate (Liu et al. 2025,
    arXiv:2502.16982). The learning rates of other rules keep the ratio of their defaults, or of the rule objects that
    you pass. The weight decay is that of the first rule.

    Args:
        model: The model. Frozen parameters are in the plan, so that they are trained if you unfreeze them later.
        rule: The rule for hidden matrices: a name (``"muon"``, ``"cautious(soap)"``), a rule or its class, or both
            rules at once (``"muon+adamw"``, ``Routed``). A rule that does not need matrices gets all parameters.
        rest: The rule for all other parameters. Defaults to AdamW.
        roles: Roles by name or by pattern of names, such as ``{"*.qkv.weight": "fused qkv"}``. They override all
            evidence.
        headless: True if the model has no last layer of its own, as a backbone.
        lr_scale: Factors of the learning rate, >= 0, by role or by name of a rule: ``{"embedding": 10, "adamw": 0.3}``.
            If both apply, they multiply.
        decay_scale: Factors of the weight decay, >= 0, by role or by name of a rule. Norms, biases and scales have 0
            unless this says otherwise.
        **settings: Settings of the rules under torch's keywords. ``lr`` and ``weight_decay`` apply to both rules,
            others to the first. The second rule's have its name in front: ``adamw_betas``.

    Returns:
        A plan that can be printed before its ``optimizer()`` is called.

    Raises:
        ParameterTypeError: If the model is not a module.
        RoutingError: If an answer in ``roles`` is not a role or does not fit, or if no parameter can be trained.
        SettingError: If a setting or a factor is out of its bounds, or the rules cannot be combined.
        KeywordError: If a setting is unknown.
        UnknownNameError: If no rule has this name.

    Example:
        >>> import torch
        >>> from thalweg.optim import route
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> plan = route(model, "muon+adamw", lr=0.02)
        >>> [(param.name, param.role, param.rule) for param in plan.parameters if "weight" in param.name]
        [('0.weight', 'hidden matrix', 'muon'), ('2.weight', 'head', 'adamw')]
        >>> optimizer = plan.optimizer()
    """
    if not isinstance(model, nn.Module):
        raise ParameterTypeError(
            f"route: model must be a module, whose parts show the roles of parameters, got {type(model).__name__}. "
            "Pass the model itself."
        )
    if common := settings.keys() & keywords.COMMON.keys():
        raise KeywordError(f"route: {', '.join(sorted(common))} must be given to optimizer(), not to route().")
    headless = _HEADLESS.parse("route: headless", headless)
    whole = _whole_rule(rule, rest)
    whole = keywords.to_rule(whole, keywords.bind(whole, (), settings))
    parameter_roles = roles_of(model, roles, headless=headless)
    if not parameter_roles:
        raise RoutingError("route: the model must have parameters that can be trained, got none.")
    lr_scale, decay_scale = (
        _scales(whole, name, factors) for name, factors in (("lr_scale", lr_scale), ("decay_scale", decay_scale))
    )
    _check_decay_scale(whole, decay_scale)
    scales = _lr_ratios(whole) | lr_scale, dict.fromkeys(UNDECAYED_ROLES, 0.0) | decay_scale
    assignments = tuple(_assign(whole, role, *scales) for role in parameter_roles)
    frozen = sum(assignment.frozen for assignment in assignments)
    return RoutingPlan(whole, assignments, frozen, sum(not can_be_trained(param) for param in model.parameters()))


def _scales(whole: Rule, keyword: str, factors: Mapping[str, float] | None) -> dict[str, float]:
    """Return factors by role or rule; raise SettingError if one has a wrong name or value."""
    if factors is not None and not isinstance(factors, Mapping):
        raise SettingError(
            f"route: {keyword} must be a dictionary from roles or rules to factors, got {shown(factors)}."
        )
    known, scales = [*_names(whole), *ROLES], {}
    for name, factor in (factors or {}).items():
        if not isinstance(name, str) or name not in known:
            raise SettingError(f"route: a scale must be of a role or a rule, got {shown(name)}. {nearest(name, known)}")
        factor = keywords.read_value(whole, f"the scale of {name}", factor)
        scales[name] = _SCALE.parse(f"route: the scale of {name}", factor)
    return scales


def _check_decay_scale(whole: Rule, decay_scale: Mapping[str, float]) -> None:
    """Warn if there is no weight decay to scale."""
    decay = whole.settings().get("weight_decay")
    factors = {name: factor for name, factor in decay_scale.items() if factor not in (0, 1)}
    if factors and not decay:
        got = "none" if decay is None else f"weight_decay={decay!r}"
        remedy = "Use a rule that has one" if decay is None else "Pass weight_decay"
        warn(
            f"route: decay_scale must have a weight decay to scale, got {factors} and {got}. "
            f"{remedy}, or remove decay_scale."
        )


def _whole_rule(rule: Any, rest: Any) -> Rule:
    """Return the rule of the whole model."""
    first = as_rule("route", rule)
    if first.parts:
        if rest is not None:
            raise SettingError(
                f"route: rest must be left out where rule has parts, got {shown(rest)} beside {first.name}."
            )
        return first
    if rest is None and not first.traits.needs_whole_matrices:
        return first
    second = as_rule("route", "adamw" if rest is None else rest)
    return combine_rules("+", first, second) if isinstance(rule, str) else Routed((first, second))


def _names(whole: Rule) -> list[str]:
    """Return the names of the rule's parts, or its own name if it has no parts."""
    return list(whole.parts) or [settings_prefix(whole)]


def _lr_ratios(whole: Rule) -> dict[str, float]:
    """Return the ratios of the learning rates of the rule's parts when they were combined."""
    core = unwrap(whole)
    return dict(zip(core.member_names, core.lr_ratios, strict=True)) if isinstance(core, Routed) else {}


def _assign(
    whole: Rule, role: ParameterRole, lr_scale: Mapping[str, float], decay_scale: Mapping[str, float]
) -> Assignment:
    settings: dict[str, Any] = {}
    names = _names(whole)
    name = names[0] if role.role in MATRIX_ROLES else names[-1]
    if whole.parts:
        settings = {"rule": name}
    if name == names[0] and role.blocks.keys() <= whole.hypers().keys():
        settings |= role.blocks
    role_name = role.role or ""
    lr = lr_scale.get(name, 1.0) * lr_scale.get(role_name, 1.0)
    decay = decay_scale.get(role_name, decay_scale.get(name, 1.0))
    overrides = GroupOverrides(tuple(settings.items()), lr, decay)
    return Assignment(role.name, role.param, role.role, name, role.why, overrides, not role.param.requires_grad)
