"""Rule classes: the optimizer class of a rule, the existing one or a new one, and how the new ones are pickled."""

import copyreg
from typing import Any

from thalweg.optim.optimizer import CLASSES, RuleOptimizer
from thalweg.registry import as_rule
from thalweg.rules import Rule


class RuleClass(type):
    """The type of the classes that `optimizer_for` makes.

    These are in no module, so that pickle could not find them. They are pickled as their rule instead.
    """


def optimizer_for(rule: type[Rule] | Rule | str) -> type[RuleOptimizer]:
    """Return the optimizer class of a rule: the existing class, or a new one for a rule of your own.

    Args:
        rule: A rule, its class, or its name, such as ``"adamw"`` or ``"cautious(clip(adamw))"``. The settings of a rule
            are the defaults of the class. Each parameter group of a rule with parts (``"muon+adamw"``) must say under
            ``"rule"`` which part steps it; :func:`route` does that for a model.

    Returns:
        A class whose constructor takes the parameters and the settings of the rule. It can be pickled, if the rule can.

    Raises:
        UnknownNameError: If no rule has this name.
        SettingError: If this is neither a rule nor a name.

    Example:
        >>> import torch
        >>> from thalweg.optim import optimizer_for
        >>> from thalweg.rules import AdamW, Cautious
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = optimizer_for(Cautious(AdamW()))(model.parameters(), lr=3e-4)
        >>> optimizer_for("adamw").__name__
        'AdamW'
    """
    return _class_of(as_rule("optimizer_for", rule))


def _class_of(rule: Rule) -> type[RuleOptimizer]:
    if rule not in CLASSES:
        kind = RuleClass(rule.name, (RuleOptimizer,), {"__module__": __name__}, rule=rule)
        copyreg.pickle(kind, _reduce)  # type: ignore[arg-type]  # a class made at run time
    return CLASSES[rule]


def _reduce(optimizer: RuleOptimizer) -> tuple[Any, ...]:
    return _new_optimizer, (optimizer.rule,), optimizer.__getstate__()


def _new_optimizer(rule: Rule) -> RuleOptimizer:
    """Return an optimizer without content, for unpickling."""
    kind = _class_of(rule)
    return kind.__new__(kind)


def _reduce_class(kind: type[RuleOptimizer]) -> Any:
    # A user's subclass is found by its name.
    return (_class_of, (kind.rule,)) if CLASSES.get(kind.rule) is kind else kind.__qualname__


copyreg.pickle(RuleClass, _reduce_class)  # type: ignore[arg-type]  # a class, not an instance
