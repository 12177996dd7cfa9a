"""Doubts: settings within their bounds that contradict what a rule declares of itself.

Each doubt is read off declarations (the unit and search range of the learning rate, what a decay leaves of a parameter,
what an average is of, which number keeps a division finite), so it holds for rules of a user's own too. Few and certain
ones: nothing within the searched ranges is doubted, nor is anything whose meaning depends on the size of gradients or
parameters. Left out for this reason: an L2 penalty in a rule that scales gradients, since it is the right thing where
the penalized loss is meant, and learning rates in θ/g.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from thalweg.errors import SettingError
from thalweg.rules.composition.composite import CompositeRule
from thalweg.rules.composition.wrapper import unwrap
from thalweg.rules.core.rule import Rule

BEYOND = 100.0  # times the end of a searched range: as far as a search may let it grow; also the end of a schedule


@dataclass(frozen=True)
class SettingCheck:
    """What is asked of settings: in which words, and what breaks it.

    `got` says what a rule has instead, at its settings and in the dtype of its arithmetic, if that is known; None if
    the settings fit. `when` is the breach in a few words, for a list.
    """

    about: str
    when: str
    must: str
    remedy: str
    got: Callable[[Rule, torch.dtype | None], str | None]


def setting_checks(rule: Rule) -> tuple[SettingCheck, ...]:
    """All that can be doubted of a rule's settings; of rules side by side, of the one that is followed."""
    rule = _followed(rule)
    return (*_of_rate(rule), *_of_decay(rule), *_of_averages(rule), *_of_epsilon(rule))


def find_conflicts(rule: Rule, dtype: torch.dtype | None = None) -> dict[str, str]:
    """What contradicts, at the rule's settings: the message of a warning, by what it is about."""
    rule = _followed(rule)
    found = ((doubt, doubt.got(rule, dtype)) for doubt in setting_checks(rule))
    return {
        doubt.about: f"{rule.name}: {doubt.must}, got {got}. {doubt.remedy}" for doubt, got in found if got is not None
    }


def schedule_conflict(rule: Rule, highest: float, now: float) -> str | None:
    """The message for a learning rate that a schedule has brought down, under a rule that takes the place of one."""
    if not 0 < now <= highest / BEYOND:  # 0 is how a group is frozen; falling less may be restarts, or a careful hand
        return None
    return (
        f"{rule.name}: lr should not be scheduled to fall, since what the rule does takes the place of that, "
        f"got {highest!r}, now {now!r}. Leave the scheduler out, or let it warm up alone."
    )


def _followed(rule: Rule) -> Rule:
    core = unwrap(rule)
    return core.original_rules[core.rules.index(core.current)] if isinstance(core, CompositeRule) else rule


def _searched(rule: Rule, *names: str) -> bool:
    """Whether a search might propose these settings: each is within its range, or what it starts from."""

    def proposed(name: str) -> bool:
        value, declared = rule.settings()[name], rule.hypers()[name]
        within = declared.search
        return value == declared.default or (within is not None and within.low <= value <= within.high)

    return all(map(proposed, names))


def _of_rate(rule: Rule) -> list[SettingCheck]:
    """A learning rate that is a size, or a factor of one, says by itself how far a step goes. One in θ/g does not."""
    declared, core = rule.hypers().get("lr"), unwrap(rule)
    if (
        declared is None
        or declared.search is None
        or "g" in declared.unit
        or rule.traits.estimates_lr != core.traits.estimates_lr
    ):
        return []  # a wrapper that finds the rate itself undoes any factor
    most, least = declared.search.high * BEYOND, declared.search.low / BEYOND
    a_size = "the size of a step, whatever the gradients are" if declared.unit == "θ" else "a factor of a step's size"
    start = f"{declared.default:g} is the default."
    too_large = SettingCheck(
        "too large a learning rate",
        f"lr above {most:g}",
        f"lr must be at most {most:g}, since it is {a_size}",
        f"{start} A minus sign may be missing in an exponent.",
        lambda rule, dtype: None if rule.settings()["lr"] <= most else f"lr={rule.settings()['lr']!r}",
    )
    if not core.traits.estimates_lr:
        return [too_large]
    too_small = SettingCheck(
        "too small a factor",
        f"lr of {least:g} or less, but for 0",
        f"lr must be near {declared.default:g}, since it is a factor of the rate that is found, and no rate",
        "Leave it out.",
        lambda rule, dtype: f"lr={rule.settings()['lr']!r}" if 0 < rule.settings()["lr"] <= least else None,
    )
    return [too_large, too_small]


def _of_decay(rule: Rule) -> list[SettingCheck]:
    """What a decay leaves of a parameter is a number by itself, or depends on what is learned: see `Rule.kept`."""
    if (
        not {"lr", "weight_decay"} <= rule.hypers().keys()
        or rule.traits.estimates_lr != unwrap(rule).traits.estimates_lr
    ):
        return []
    try:
        much = rule.with_(lr=2.0, weight_decay=1.0).decay_factor(2)  # some do nothing at step 1
    except SettingError:  # bounds of its own keep it from that
        return []
    if much is None or much > 0:  # none beside the step, or one that is a share at any settings
        return []

    def got(rule: Rule, dtype: torch.dtype | None) -> str | None:
        kept, own = rule.decay_factor(2), rule.settings()
        if kept is None or kept > 0 or _searched(rule, "lr", "weight_decay"):
            return None
        settings = (f"{name}={own[name]!r}" for name in ("lr", "weight_decay", "reference_lr") if name in own)
        return f"{kept:g} from {', '.join(settings)}"

    return [
        SettingCheck(
            "a decay of all there is",
            "a weight decay that leaves nothing of a parameter or its opposite, beyond what is searched",
            "what weight decay leaves of a parameter at a step must be a share above 0",
            "Lower weight_decay or lr.",
            got,
        )
    ]


def _of_averages(rule: Rule) -> list[SettingCheck]:
    """Of the mean and the mean square of gradients, Adam's analysis wants that the mean does not last much longer."""
    declared = rule.hypers()
    of_grad, of_square = (
        next((name for name, one in declared.items() if one.averages == unit), None) for unit in ("g", "g²")
    )
    if of_grad is None or of_square is None:
        return []

    def got(rule: Rule, dtype: torch.dtype | None) -> str | None:
        mean, square = rule.settings()[of_grad], rule.settings()[of_square]
        if mean**2 < square**0.5 or not mean or _searched(rule, of_grad, of_square):
            return None
        return f"{of_grad}={mean!r}, {of_square}={square!r}"

    return [
        SettingCheck(
            "decays in the wrong order",
            f"{of_grad}² ≥ √{of_square}, beyond what is searched",
            # Kingma & Ba 2015, arXiv:1412.6980, Theorem 4.1.
            f"{of_grad}² must be below √{of_square}, since squares that are forgotten sooner do not bound the mean",
            "They may have been exchanged.",
            got,
        )
    ]


def _of_epsilon(rule: Rule) -> list[SettingCheck]:
    """What keeps a division finite must not be rounded to 0, unless it is meant to be."""
    names = [name for name, one in rule.hypers().items() if one.symbol.startswith("ε")]

    def got(rule: Rule, dtype: torch.dtype | None) -> str | None:
        own = rule.settings()
        vanishing = (name for name in names if own[name] and dtype is not None and _is_zero(own[name], dtype))
        name = next(vanishing, None)
        return name and f"{name}={own[name]!r}, which is 0 in {dtype}"

    if not names:
        return []
    return [
        SettingCheck(
            "an ε that vanishes",
            f"{' or '.join(names)} that rounds to 0",
            f"{' and '.join(names)} must not be rounded to 0 by the dtype that steps are computed in",
            "Raise it, or pass 0 if that is meant.",
            got,
        )
    ]


def _is_zero(value: float, dtype: torch.dtype) -> bool:
    return not torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype)
