"""Conversions: checkpoints of other libraries that our rules continue exactly, declared in one table.

A library is known by the keys of its groups. Its checkpoint is converted only at settings at which both formulas are
the same. Numbers that it keeps in a group become entries of the state of each parameter. Where a group counts the
steps, a parameter without state would go on differently, and is refused.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.errors import ParameterError

Entry = Callable[[Tensor, Mapping[str, Any]], Tensor]  # of the saved tensor and all entries of its parameter


def _same(saved: Tensor, record: Mapping[str, Any]) -> Tensor:
    return saved


def _negated(saved: Tensor, record: Mapping[str, Any]) -> Tensor:
    return -saved


def _shaped(saved: Tensor, record: Mapping[str, Any]) -> Tensor:
    """Return a flattened tensor, or one number for all elements, in the shape of the parameter."""
    like = record["exp_avg_sq"]
    if not isinstance(like, Tensor) or saved.numel() not in (1, like.numel()):
        return saved  # refused when the shapes are checked
    return saved.expand(like.numel()).reshape(like.shape) if saved.dim() < 2 else saved


def _zero_if_none(value: Any) -> Any:
    return 0.0 if value is None else value


def _finite_growth(value: Any) -> Any:
    """Return a limit of growth; in place of none, one that no float32 reaches."""
    return 1e38 if value == math.inf else value


@dataclass(frozen=True)
class Conversion:
    """The checkpoints of one optimizer of another library.

    Attributes:
        source: The optimizer and its library.
        rule: The name of our rule.
        marks: Keys that all its groups have.
        required: The values at which its formula is that of our rule. A key that is absent is not required.
        decay_forms: Those of them that matter only if there is weight decay.
        unused: Keys of its groups that do not matter.
        settings: Settings that it has in another form, with a function that returns ours.
        from_group: Entries of our state that it keeps in its groups, with its keys.
        entries: Entries of our state, with its keys and forms.
        remedy: What to do if a required value is another one.
        problem: Returns a reason why a group cannot be converted, if there is one that no single key shows.
    """

    source: str
    rule: str
    marks: frozenset[str]
    required: Mapping[str, Any]
    from_group: Mapping[str, str]
    entries: Mapping[str, tuple[str, Entry]]
    decay_forms: frozenset[str] = frozenset()
    unused: frozenset[str] = frozenset()
    settings: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    remedy: str = "Start this optimizer anew, or continue in the other library."
    problem: Callable[[Mapping[str, Any]], str | None] = lambda group: None

    def recognizes(self, groups: list[Mapping[str, Any]]) -> bool:
        """Return True if all groups have the keys of this optimizer."""
        return all(self.marks <= group.keys() for group in groups)


class Converted(NamedTuple):
    """A checkpoint in our form.

    Attributes:
        groups: The groups, with the settings of our rule and all keys that the conversion does not know.
        state: The state, with the entries of our rule.
        unknown_keys: For each group, the keys that the conversion does not know.
    """

    groups: list[dict[str, Any]]
    state: dict[Any, Any]
    unknown_keys: list[list[Any]]


def _algorithm_of_the_paper(group: Mapping[str, Any]) -> str | None:
    """Return a reason if the group is that of `AdamWScheduleFreePaper`, which has the same keys."""
    try:
        warmup = min(1.0, group["k"] / group["warmup_steps"]) if group["warmup_steps"] else 1.0
        correction = math.sqrt(1 - group["betas"][1] ** group["k"])
        lr = float(group["lr"]) * warmup
        is_papers = correction < 1 and lr > 0 and math.isclose(group["scheduled_lr"], lr * correction, rel_tol=1e-12)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return None  # refused when the settings are checked
    return "AdamWScheduleFreePaper, which has another formula" if is_papers else None


_SCHEDULE_FREE = {
    "marks": frozenset({"k", "warmup_steps", "train_mode", "weight_sum", "lr_max", "scheduled_lr"}),
    "required": {"train_mode": True},
    "unused": frozenset({"scheduled_lr", "foreach"}),
    "from_group": {"step": "k", "weight_sum": "weight_sum", "lr_max": "lr_max"},
    "remedy": "Load the model and the checkpoint into it, call its train(), and save both again.",
}
_ADAN_ENTRIES = {key: (key, _same) for key in ("exp_avg", "exp_avg_diff", "exp_avg_sq")}

CONVERSIONS = (
    Conversion(
        "AdamWScheduleFree of schedulefree",
        "ScheduleFreeAdamW",
        entries={"z": ("z", _same), "exp_avg_sq": ("exp_avg_sq", _same)},
        problem=_algorithm_of_the_paper,
        **_SCHEDULE_FREE,  # type: ignore[arg-type]
    ),
    Conversion("SGDScheduleFree of schedulefree", "ScheduleFreeSGD", entries={"z": ("z", _same)}, **_SCHEDULE_FREE),  # type: ignore[arg-type]
    Conversion(
        "Prodigy of prodigyopt",
        "Prodigy",
        marks=frozenset({"d", "d_max", "d_numerator", "k", "use_bias_correction", "safeguard_warmup"}),
        required={"use_bias_correction": False, "safeguard_warmup": False, "decouple": True, "slice_p": 1},
        decay_forms=frozenset({"decouple"}),
        unused=frozenset({"k", "fsdp_in_use", "d_denom", "d_hat"}),
        settings={"beta3": _zero_if_none, "growth_rate": _finite_growth},
        from_group={"d": "d", "d_max": "d_max", "d_numerator": "d_numerator"},
        entries={
            "step": ("step", _same),
            "exp_avg": ("exp_avg", _same),
            "exp_avg_sq": ("exp_avg_sq", _same),
            "s": ("s", _shaped),
            "p0": ("p0", _shaped),
        },
    ),
    Conversion(
        "Adan of its authors, or of timm",
        "Adan",
        marks=frozenset({"step", "no_prox"}),
        required={"no_prox": False, "max_grad_norm": 0.0, "caution": False},
        decay_forms=frozenset({"no_prox"}),
        unused=frozenset({"foreach", "fused"}),
        from_group={"step": "step"},
        entries=_ADAN_ENTRIES | {"last_grad": ("neg_pre_grad", _negated)},
    ),
    Conversion(
        "Adan of pytorch_optimizer",
        "Adan",
        marks=frozenset({"step", "weight_decouple", "max_grad_norm"}),
        required={"weight_decouple": False, "max_grad_norm": 0.0},
        decay_forms=frozenset({"weight_decouple"}),
        unused=frozenset({"foreach"}),
        from_group={"step": "step"},
        entries=_ADAN_ENTRIES | {"last_grad": ("previous_grad", _negated)},
    ),
)


def convert(rule: str, settings: list[str], saved: Mapping[str, Any]) -> Converted | None:
    """Return a checkpoint of another library in our form.

    Args:
        rule: The name of our rule.
        settings: The keywords of our rule.
        saved: The checkpoint.

    Returns:
        The converted checkpoint; None if it is of no optimizer in the table.

    Raises:
        ParameterError: If our rule would not continue it exactly.
    """
    for conversion in CONVERSIONS:
        if conversion.rule == rule and saved["param_groups"] and conversion.recognizes(saved["param_groups"]):
            return _convert(conversion, settings, saved)
    return None


def _convert(conversion: Conversion, settings: list[str], saved: Mapping[str, Any]) -> Converted:
    known = {*settings, *conversion.marks, *conversion.required, *conversion.unused, *conversion.from_group.values()}
    groups, unknown_keys = [], []
    state = dict(saved["state"])
    for group in saved["param_groups"]:
        _check_required(conversion, group)
        _check_present(conversion, "groups", settings, group)
        unknown = [key for key in group if key not in known]
        own = {key: group[key] for key in (*settings, *unknown)}
        own |= {keyword: own_form(group[keyword]) for keyword, own_form in conversion.settings.items()}
        groups.append(own)
        unknown_keys.append(unknown)
        _check_counts(conversion, group, state)
        for index in group["params"]:
            if isinstance(record := state.get(index), Mapping) and record:
                state[index] = _convert_record(conversion, group, record)
    return Converted(groups, state, unknown_keys)


def _check_required(conversion: Conversion, group: Mapping[str, Any]) -> None:
    problem = conversion.problem(group)
    for key, value in conversion.required.items():
        matters = key not in conversion.decay_forms or group.get("weight_decay") != 0
        if problem is None and key in group and matters and group[key] != value:
            problem = f"{key}={group[key]!r:.80}"
    if problem is not None:
        text = ", ".join(f"{key}={value!r}" for key, value in conversion.required.items() if key in group)
        raise ParameterError(
            f"{conversion.rule}: a checkpoint of {conversion.source} must have {text} to be continued exactly, got "
            f"{problem}. {conversion.remedy}"
        )


def _check_counts(conversion: Conversion, group: Mapping[str, Any], state: Mapping[Any, Any]) -> None:
    """Raise ParameterError if a parameter joins after the first step of its group, and the group counts the steps.

    There its first step would be a later one of the group; ours counts the steps of each parameter.
    """
    without_state = [index for index in group["params"] if not state.get(index)]
    if "step" in conversion.from_group and without_state and len(without_state) < len(group["params"]):
        raise ParameterError(
            f"{conversion.rule}: each parameter in a checkpoint of {conversion.source} must have state to be continued "
            f"exactly, since a group counts the steps there, got none of {', '.join(map(str, without_state))}. "
            "Take all parameters through a step there first, or start this optimizer anew."
        )


def _check_present(conversion: Conversion, where: str, keys: list[str], saved: Mapping[str, Any]) -> None:
    if missing := [key for key in keys if key not in saved]:
        raise ParameterError(
            f"{conversion.rule}: {where} of a checkpoint of {conversion.source} must hold {', '.join(keys)}, got none "
            f"of {', '.join(missing)}. Pass the result of its state_dict()."
        )


def _convert_record(conversion: Conversion, group: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    keys = [key for key, _ in conversion.entries.values()]
    _check_present(conversion, "state", keys, record)
    if unknown := [str(key) for key in record if key not in keys]:
        raise ParameterError(
            f"{conversion.rule}: state of a checkpoint of {conversion.source} must hold {', '.join(keys)} alone, got "
            f"{', '.join(unknown)}, too. {conversion.remedy}"
        )
    converted = {}
    for own_key, (key, form) in conversion.entries.items():
        value = record[key]
        is_plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
        converted[own_key] = form(value, record) if is_plain else value
    return converted | {own_key: group[key] for own_key, key in conversion.from_group.items()}
