"""Checks of settings that are within their bounds but contradict a declaration of the rule.

Each check is derived from declarations: the unit and search range of the learning rate, the effect of a decay, the
quantities that running means average, and the number that keeps a division finite. So it holds for a user's own rules
too. There are few checks, and each is certain: no value within a search range is reported, nor one whose meaning
depends on the size of gradients or parameters. For that reason there is none of an L2 penalty in a rule that scales
gradients, which is right if the penalized loss is intended, nor of learning rates with the unit θ/g.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from thalweg.errors import SettingError
from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.composition.wrapper import unwrap
from thalweg.rules.core.rule import Rule

# Learning rates this many times beyond their search range are reported; no search extends the range further. A schedule
# that lowers the learning rate by this factor is reported too.
SEARCH_MARGIN = 100.0


@dataclass(frozen=True)
class SettingCheck:
    """A check of the settings of one rule.

    Attributes:
        topic: The subject of the warning. An optimizer warns once of each.
        condition: The settings that cause the warning, in a few words.
        requirement: The condition that settings must meet, as part of the message.
        remedy: The advice of the message.
        violation: Returns the settings that break the requirement, in words, or None. Its arguments are the rule at its
            settings and the dtype of its arithmetic, None if that is unknown.
    """

    topic: str
    condition: str
    requirement: str
    remedy: str
    violation: Callable[[Rule, torch.dtype | None], str | None]


def setting_checks(rule: Rule) -> tuple[SettingCheck, ...]:
    """Return the checks that apply to a rule; those of a composite are those of its current rule."""
    rule = _current_rule(rule)
    checks = (make_check(rule) for make_check in _CHECKS)
    return tuple(check for check in checks if check is not None)


def find_conflicts(rule: Rule, dtype: torch.dtype | None = None) -> dict[str, str]:
    """Return the warnings about the settings of a rule.

    Args:
        rule: The rule at its settings.
        dtype: The dtype of its arithmetic, if that is known.

    Returns:
        The messages by topic.
    """
    rule = _current_rule(rule)
    violations = ((check, check.violation(rule, dtype)) for check in setting_checks(rule))
    return {
        check.topic: f"{rule.name}: {check.requirement}, got {violation}. {check.remedy}"
        for check, violation in violations
        if violation is not None
    }


def schedule_conflict(rule: Rule, highest: float, now: float) -> str | None:
    """Return the warning about a schedule, for a rule that replaces schedules of the learning rate.

    Args:
        rule: The rule; it has the trait ``replaces_lr_schedule``.
        highest: The highest learning rate so far.
        now: The current learning rate. 0 is not reported, since it freezes a parameter group.

    Returns:
        The message, or None if the learning rate has not fallen far.
    """
    if not 0 < now <= highest / SEARCH_MARGIN:
        return None
    return (
        f"{rule.name}: lr should not be scheduled to fall, since the rule itself has that effect, "
        f"got {highest!r}, now {now!r}. Leave the scheduler out, or use it for the warm-up alone."
    )


def _current_rule(rule: Rule) -> Rule:
    core = unwrap(rule)
    return core.original_rules[core.rules.index(core.current)] if isinstance(core, CompositeRule) else rule


def _is_searched(rule: Rule, *names: str) -> bool:
    """Return True if a search could propose these settings: each is at its default or within its search range."""

    def proposed(name: str) -> bool:
        value, declared = rule.settings()[name], rule.hypers()[name]
        search = declared.search
        return value == declared.default or (search is not None and search.low <= value <= search.high)

    return all(map(proposed, names))


def _wrapper_estimates_lr(rule: Rule) -> bool:
    """Return True if a wrapper makes up for the learning rate of the rule inside."""
    return rule.traits.estimates_lr != unwrap(rule).traits.estimates_lr


def _large_lr_check(rule: Rule) -> SettingCheck | None:
    """Check that the size of a step, or a factor of it, is not too large. In units of θ/g, gradients decide that."""
    declared = rule.hypers().get("lr")
    if declared is None or declared.search is None or "g" in declared.unit or _wrapper_estimates_lr(rule):
        return None
    limit = declared.search.high * SEARCH_MARGIN
    meaning = "the size of a step for all gradients" if declared.unit == "θ" else "a factor of the size of a step"

    def violation(rule: Rule, dtype: torch.dtype | None) -> str | None:
        lr = rule.settings()["lr"]
        return None if lr <= limit else f"lr={lr!r}"

    return SettingCheck(
        topic="too large a learning rate",
        condition=f"lr above {limit:g}",
        requirement=f"lr must be at most {limit:g}, since it is {meaning}",
        remedy=f"{declared.default:g} is the default. A minus sign may be missing in an exponent.",
        violation=violation,
    )


def _small_lr_factor_check(rule: Rule) -> SettingCheck | None:
    """Check that the factor of an estimated learning rate is not a learning rate."""
    declared = rule.hypers().get("lr")
    if _large_lr_check(rule) is None or declared is None or declared.search is None:
        return None
    if not unwrap(rule).traits.estimates_lr:
        return None
    limit = declared.search.low / SEARCH_MARGIN

    def violation(rule: Rule, dtype: torch.dtype | None) -> str | None:
        lr = rule.settings()["lr"]
        return f"lr={lr!r}" if 0 < lr <= limit else None

    return SettingCheck(
        topic="too small a factor",
        condition=f"lr of {limit:g} or less, except 0",
        requirement=f"lr must be near {declared.default:g}, since it is a factor of the estimated learning rate",
        remedy="Leave it out.",
        violation=violation,
    )


def _decay_check(rule: Rule) -> SettingCheck | None:
    """Check that a decay beside the step does not remove the whole parameter; see `Rule.decay_factor`."""
    if not {"lr", "weight_decay"} <= rule.hypers().keys() or _wrapper_estimates_lr(rule):
        return None
    try:
        factor = rule.with_(lr=2.0, weight_decay=1.0).decay_factor(2)  # at step 1 some rules do nothing
    except (SettingError, ArithmeticError):  # the rule's own bounds exclude such a decay, or other settings overflow
        return None
    if factor is None or factor > 0:  # there is no decay beside the step, or it is a share at all settings
        return None

    def violation(rule: Rule, dtype: torch.dtype | None) -> str | None:
        factor, values = rule.decay_factor(2), rule.settings()
        if factor is None or factor > 0 or _is_searched(rule, "lr", "weight_decay"):
            return None
        settings = (f"{name}={values[name]!r}" for name in ("lr", "weight_decay", "reference_lr") if name in values)
        return f"{factor:g} from {', '.join(settings)}"

    return SettingCheck(
        topic="a decay of the whole parameter",
        condition="a weight decay that leaves nothing of a parameter in one step, outside the search ranges",
        requirement="weight decay must leave more than 0 of a parameter in a step",
        remedy="Lower weight_decay or lr.",
        violation=violation,
    )


def _mean_decays_check(rule: Rule) -> SettingCheck | None:
    """Check that the mean gradient does not last much longer than the mean square, as the analysis of Adam requires."""
    names = {declared.averages: name for name, declared in reversed(rule.hypers().items())}
    if not {"g", "g²"} <= names.keys():
        return None
    mean_name, square_name = names["g"], names["g²"]

    def violation(rule: Rule, dtype: torch.dtype | None) -> str | None:
        mean, square = rule.settings()[mean_name], rule.settings()[square_name]
        if mean**2 < square**0.5 or not mean or _is_searched(rule, mean_name, square_name):
            return None
        return f"{mean_name}={mean!r}, {square_name}={square!r}"

    return SettingCheck(
        topic="decays in the wrong order",
        condition=f"{mean_name}² ≥ √{square_name}, outside the search ranges",
        # Kingma & Ba 2015, arXiv:1412.6980, Theorem 4.1.
        requirement=f"{mean_name}² must be below √{square_name}, since a shorter mean of squares is no bound for it",
        remedy="They may have been exchanged.",
        violation=violation,
    )


def _epsilon_check(rule: Rule) -> SettingCheck | None:
    """Check that an ε above 0 is not 0 in the dtype of the arithmetic."""
    names = [name for name, declared in rule.hypers().items() if declared.symbol.startswith("ε")]
    if not names:
        return None

    def violation(rule: Rule, dtype: torch.dtype | None) -> str | None:
        values = rule.settings()
        for name in names:
            if values[name] and dtype is not None and _rounds_to_zero(values[name], dtype):
                return f"{name}={values[name]!r}, which is 0 in {dtype}"
        return None

    return SettingCheck(
        topic="an ε that is rounded to 0",
        condition=f"{' or '.join(names)} that is rounded to 0",
        requirement=f"{' and '.join(names)} must not be rounded to 0 in the dtype of the arithmetic",
        remedy="Raise it, or pass 0 if that is intended.",
        violation=violation,
    )


def _rounds_to_zero(value: float, dtype: torch.dtype) -> bool:
    return not torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype)


# Each returns its check for a rule, or None if it does not apply.
_CHECKS: tuple[Callable[[Rule], SettingCheck | None], ...] = (
    _large_lr_check,
    _small_lr_factor_check,
    _decay_check,
    _mean_decays_check,
    _epsilon_check,
)
