"""Groups: the kind of each rule, and the shortlist of optimizers that a newcomer should try.

``thalweg list``, ``thalweg explain`` and the pages of the handbook read this module.
"""

from dataclasses import dataclass

from thalweg.registry import WRAPPERS, name_of_rule_class, rule_from_name
from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.composition.wrapper import Wrapper
from thalweg.rules.core.rule import Rule


@dataclass(frozen=True)
class Group:
    """A group of rules that scale a step in the same way.

    Attributes:
        name: The name of the group.
        about: What its members have in common.
        members: The names of its rules or wrappers.
    """

    name: str
    about: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """An optimizer that a newcomer should try.

    Attributes:
        name: The name or expression of the contender.
        reason: The problems that it is for.
        evidence: The committed record or the paper that shows it.
    """

    name: str
    reason: str
    evidence: str


_TABLE = {
    "classical": (
        "One learning rate for all elements: gradient descent with momentum, and quasi-Newton methods.",
        "sgd heavy_ball aggmo qhm lbfgs",
    ),
    "adaptive": (
        "A step size for each element (or row): gradients divided by a running measure of their size.",
        "adagrad rmsprop adadelta adam adamw adamax nadam nadamw radam radamw adabelief adan ademamix adopt laprop "
        "qhadam yogi stable_adamw sparse_adam madgrad adafactor came adam_mini sm3 adahessian sophia",
    ),
    "sign": (
        "Steps whose size does not depend on that of the gradients, only on their signs.",
        "signum lion rprop",
    ),
    "tensor-scaled": (
        "Steps scaled by the norms of each tensor and its gradient, for large batches.",
        "lars lamb novograd",
    ),
    "matrix": (
        "Weight matrices stepped as matrices: orthogonalized momentum, or preconditioners for rows and columns.",
        "muon normuon dion scion shampoo soap psgd_kron",
    ),
    "parameter-free": (
        "The learning rate is estimated during training.",
        "prodigy dadapt_adam dadapt_sgd dog dowg ldog",
    ),
    "averaging": (
        "The model is evaluated at an average of the iterates, which replaces a schedule.",
        "schedule_free_adamw schedule_free_sgd asgd",
    ),
}

GROUPS: dict[str, Group] = {name: Group(name, about, tuple(names.split())) for name, (about, names) in _TABLE.items()}
GROUPS["wrappers"] = Group("wrappers", "Rules around another rule, which change a single thing.", tuple(WRAPPERS))

_TRAININGS = "benchmarks/records/choosing_in_the_wild.json"

SHORTLIST: dict[str, Recommendation] = {
    entry.name: entry
    for entry in (
        Recommendation("adamw", "the first attempt on nearly every network", "arXiv:1711.05101"),
        Recommendation("nadam", "the same networks, by Nesterov's momentum, without weight decay", _TRAININGS),
        Recommendation("muon+adamw", "networks with hidden matrices; adamw steps the other parameters", _TRAININGS),
        Recommendation("momentum", "convolutional networks, with a tuned rate", "arXiv:1512.03385"),
        Recommendation("lion", "large batches, with half of AdamW's state", "arXiv:2302.06675"),
        Recommendation("schedule_free_adamw", "training whose length is not known in advance", "arXiv:2405.15682"),
        Recommendation("prodigy", "training without a tuned learning rate", "arXiv:2306.06101"),
        Recommendation(
            "lbfgs", "full batches and smooth losses: least squares, small physics models", "arXiv:2402.01868"
        ),
    )
}

_GROUP_OF = {member: group for group in GROUPS.values() for member in group.members}


def group_of(rule: Rule | type[Rule]) -> Group | None:
    """Return the group of a rule; that of a composite is the group of its first rule.

    Args:
        rule: The rule or its class.

    Returns:
        The group; None if the rule is not in the registry, such as a user's own rule.

    Example:
        >>> from thalweg import rules
        >>> group_of(rules.Lion).name, group_of(rules.Clip(rules.Lion())).name
        ('sign', 'wrappers')
    """
    while isinstance(rule, CompositeRule):
        rule = rule.original_rules[0]
    name = name_of_rule_class(rule if isinstance(rule, type) else type(rule))
    return None if name is None else _GROUP_OF.get(name)


def shortlisted(rule: Rule) -> tuple[Recommendation, ...]:
    """Return the recommendations of the shortlist that contain this rule, in the shortlist's order.

    Args:
        rule: The rule; its settings do not count.

    Example:
        >>> from thalweg import rules
        >>> [entry.name for entry in shortlisted(rules.AdamW())]
        ['adamw', 'muon+adamw']
    """
    return tuple(entry for entry in SHORTLIST.values() if type(rule) in _classes_of(entry.name))


def _classes_of(name: str) -> set[type[Rule]]:
    """The classes of the rules in the expression of a recommendation."""
    rule = rule_from_name(_EXPRESSIONS.get(name, name))
    while isinstance(rule, Wrapper):
        rule = rule.inner
    members = rule.original_rules if isinstance(rule, CompositeRule) else (rule,)
    return {type(member) for member in members}


_EXPRESSIONS = {"momentum": "sgd"}  # contenders that are a rule at settings of their own
