"""Parameter groups of a training function, whose learning rates follow that of the trial."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.errors import SettingError

LR_SCALE = "lr_scale"  # the key of a group for its share of the trial's learning rate


def is_groups(entries: Sequence[Any]) -> bool:
    """Return True if entries are parameter groups, as dictionaries."""
    return bool(entries) and all(isinstance(entry, Mapping) for entry in entries)


def lr_of_group(trial_lr: float, share: float) -> float:
    """Return the learning rate of a group, rounded so that it is readable where it is printed for pasting."""
    return float(f"{trial_lr * share:.12g}")


def resolve_groups(
    who: str, groups: Sequence[Mapping[str, Any]], trial_lr: float, reference: float | None
) -> tuple[list[dict[str, Any]], list[float]]:
    """Return copies of groups whose learning rates follow the trial's, and the share of it that each group gets.

    The share of a group is its ``lr_scale``; or its ``lr`` divided by ``reference``, or else by the ``lr`` of the first
    group. A group with neither gets the whole learning rate. All other settings of a group stay as they are.

    Args:
        who: The beginning of error messages.
        groups: The groups as the user wrote them.
        trial_lr: The learning rate of the trial.
        reference: The learning rate of groups without one of their own; None if the user gave none.

    Returns:
        The groups, and their shares: an empty list if no group has a learning rate of its own.

    Raises:
        SettingError: If a ratio is unknown or no number.

    Example:
        >>> resolve_groups("train", [{"params": [], "lr": 1e-3}, {"params": [], "lr": 1e-2}], 0.5, None)[1]
        [1.0, 10.0]
    """
    for number, group in enumerate(groups, 1):
        for key in ("lr", LR_SCALE):
            value = group.get(key, 1.0)
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise SettingError(f"{who}: {key} of group {number} must be a number >= 0, got {value!r}.")
        if "lr" in group and LR_SCALE in group:
            raise SettingError(f"{who}: group {number} must have lr or lr_scale, got both. Remove one.")
    with_lr = [number for number, group in enumerate(groups, 1) if "lr" in group]
    without = [number for number, group in enumerate(groups, 1) if "lr" not in group and LR_SCALE not in group]
    if not with_lr and not any(LR_SCALE in group for group in groups):
        return [dict(group) for group in groups], []
    if reference is None and with_lr:
        if without or with_lr[0] != 1 or groups[0]["lr"] == 0:
            got = f"group {without[0]} has none" if without else f"group 1 has {groups[0].get('lr', 'an lr_scale')!r}"
            raise SettingError(
                f"{who}: the learning rates of groups must be ratios to that of the trial, but group {with_lr[0]} has "
                f"lr={groups[with_lr[0] - 1]['lr']!r} and {got}. Give the learning rate of the other groups in your "
                'script, make_optimizer(groups, lr=1e-3), or write "lr_scale": 0.1 in the group instead of "lr".'
            )
        reference = float(groups[0]["lr"])
    shares = [_share(group, reference) for group in groups]
    resolved = []
    for group, share in zip(groups, shares, strict=True):
        own = {key: value for key, value in group.items() if key != LR_SCALE}
        resolved.append(own | {"lr": lr_of_group(trial_lr, share)})
    return resolved, shares


def _share(group: Mapping[str, Any], reference: float | None) -> float:
    if "lr" not in group:
        return float(group.get(LR_SCALE, 1.0))
    assert reference is not None
    return float(group["lr"]) / reference
