"""Settings as texts: ``lr=3e-4``, ``history_size=5..50``, ``line_search_fn=strong_wolfe``."""

import math
from dataclasses import replace
from typing import Any

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.contenders.external import ExternalOptimizer
from thalweg.errors import SettingError
from thalweg.rules import Hyper, Range

_WIDE = 10.0  # a range whose ends have at least this ratio is searched in its logarithm


def assignments_of(contender: Contender, text: str) -> list[str]:
    """Split ``lr=3e-4,beta1=0.95``.

    Raises:
        SettingError: If a part is no assignment.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        if "=" not in part:
            raise SettingError(f"{contender.name}: a setting must read name=value, got {part!r}.")
    return parts


def split_assignment(text: str) -> tuple[str, str]:
    """Return the name and the value of ``name=value``."""
    key, _, value = text.partition("=")
    return key.strip(), value.strip()


def parse_value(contender: Contender, key: str, text: str) -> Any:
    """Return the value of a setting: a number, a whole number, true, false, or a word.

    Raises:
        SettingError: If the text is no value of this setting.
    """
    hyper = contender.rule.hypers().get(key)
    if hyper is not None and hyper.kind == "choice":
        return text
    rule = contender.rule
    if isinstance(rule, ExternalOptimizer) and key in rule.text_keywords:
        return rule.parse_text(key, text)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = float(text)
    except ValueError:
        raise SettingError(f"{contender.name}: {key} must be a number, true or false, got {text!r}.") from None
    if hyper is None or not hyper.is_whole:
        return value
    if not value.is_integer():
        raise SettingError(
            f"{contender.name}: {key} must be a whole number {hyper.bound}, got {text!r}. "
            f"Write {key}={max(1, math.floor(value)) if math.isfinite(value) else hyper.default}, say."
        )
    return int(value)


def parse_range(contender: Contender, key: str, text: str) -> Range:
    """Return the range of ``1e-4..1e-1``, of whole numbers if the setting is one.

    The scale is the declared one, else logarithmic if the range is wide.

    Raises:
        SettingError: If the setting has no range, or the text is no range of it.
    """
    hyper = contender.rule.hypers().get(key)
    example = f"{key}={'5..50' if hyper is not None and hyper.is_whole else '0.1..0.9'}"
    if hyper is not None and (hyper.kind in ("switch", "choice") or isinstance(hyper.default, bool)):
        raise SettingError(
            f"{contender.name}: {key} must be {_requirement(hyper)}, so it has no range, got {text!r}. "
            f"Compare two contenders: {contender.name}:{key}=... for each value."
        )
    ends = [end.strip() for end in text.split("..", 1)]
    low, high = (_parse_end(contender, key, end, text, example) for end in ends)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SettingError(
            f"{contender.name}: {key} must be a range of two finite numbers, got {text!r}. Write {example}, say."
        )
    if not low < high:
        mended = f"{key}={ends[1]}..{ends[0]}" if high < low else example
        raise SettingError(f"{contender.name}: {key} must be a range low..high, got {text!r}. Write {mended}, say.")
    if hyper is not None and hyper.is_whole and not (low.is_integer() and high.is_integer()):
        raise SettingError(
            f"{contender.name}: {key} must be a range of whole numbers, got {text!r}. Write {example}, say."
        )
    if hyper is None or hyper.search is None:
        bounds = Range(low, high, "log" if 0 < low * _WIDE <= high else "linear")
    else:
        bounds = replace(hyper.search, low=low, high=high)
    if bounds.scale == "log" and low <= 0:
        raise SettingError(f"{contender.name}: {key} is searched in its logarithm, so low must be > 0, got {text!r}.")
    if bounds.scale == "log-to-one" and high >= 1:
        raise SettingError(
            f"{contender.name}: {key} is searched by its distance to 1, so high must be < 1, got {text!r}."
        )
    if hyper is None or not hyper.is_whole:
        return bounds
    return replace(bounds, low=int(low), high=int(high), whole=True)


def check_range_of_user(contender: Contender, owner: Contender, key: str, value: Any) -> None:
    """Raise SettingError for a value beyond a range that the user gave: nothing beyond it is to be searched.

    A declared range only says what is worth a search. A value of the user's beyond it is tried.

    Args:
        contender: The contender, for the message.
        owner: The contender that has the setting: that of one of several optimizers, or the same.
        key: The name of the setting, with that of its optimizer.
        value: The value.
    """
    name = key.rpartition(".")[2]
    bounds = owner.ranges.get(name)
    rules = [owner.rule, *getattr(owner.rule, "original_rules", ())]
    is_declared = any(name in rule.hypers() and bounds == rule.hypers()[name].search for rule in rules)
    if bounds is None or is_declared or not bounds.is_ordered or bounds.low <= value <= bounds.high:
        return
    raise SettingError(
        f"{contender.name}: {key} must lie in its range, {bounds.low:g} to {bounds.high:g}, to start a search, got "
        f"{value:g}. Widen the range (--with, contenders= in Python), or start from a value in it."
    )


def _requirement(hyper: Hyper) -> str:
    return "True or False" if isinstance(hyper.default, bool) else hyper.requirement


def _parse_end(contender: Contender, key: str, end: str, text: str, example: str) -> float:
    try:
        return float(end)
    except ValueError:
        raise SettingError(
            f"{contender.name}: {key} must be a range of two numbers, got {text!r}. Write {example}, say."
        ) from None
