"""Checkpoints: what was saved, checked as a whole and made ready, before anything of an optimizer is changed."""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core import precision
from thalweg.engine.core.program import Program
from thalweg.errors import ParameterError
from thalweg.optim import keywords
from thalweg.optim.state_entries import as_engine_tensor, check_shape
from thalweg.rules import Rule

Groups = Sequence[Mapping[str, Any]]


def taken(
    rule: Rule, defaults: Mapping[str, Any], groups: Groups, saved: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[Any, Any]]:
    """A checkpoint as an optimizer with these groups can take it, and the state of each parameter.

    Raises ParameterError or SettingError; groups of another number or size are left to torch to refuse.
    """
    if not isinstance(saved.get("param_groups"), list) or not isinstance(saved.get("state"), Mapping):
        raise ParameterError(
            f"{rule.name}: a checkpoint must hold 'param_groups' and 'state', got {', '.join(map(repr, saved))}. "
            "Pass what state_dict() gave."
        )
    whose = saved.get("rule")
    if whose not in (None, rule.name):
        raise ParameterError(
            f"{rule.name}: the checkpoint must be one of {rule.name}, got one of {whose}. Load it into that."
        )
    final = [_completed(rule, defaults, group, whose) for group in saved["param_groups"]]
    if rule.parts:  # what is where decides which rule steps it
        _check_names(rule, groups, final)
    rules = [keywords.to_rule(rule, group) for group in final]
    loaded: dict[Any, Any] = defaultdict(dict)
    if [len(group["params"]) for group in groups] == [len(group["params"]) for group in final]:
        ids = dict(zip(_params(final), _params(groups), strict=True))
        of_index = {index: pair for pair in zip(rules, final, strict=True) for index in pair[1]["params"]}
        for index, record in saved["state"].items():
            if index in ids:
                _check_record(*of_index[index], ids[index], record)
                loaded[ids[index]] = {key: _kept(key, value, ids[index]) for key, value in record.items()}
            else:
                loaded[index] = record
    return {**saved, "param_groups": final}, loaded


def _params(groups: Groups) -> list[Any]:
    return list(chain.from_iterable(group["params"] for group in groups))


def _completed(rule: Rule, defaults: Mapping[str, Any], group: Mapping[str, Any], whose: str | None) -> dict[str, Any]:
    """A saved group with what torch's optimizers lack, without what only they have; another algorithm's is refused."""
    missing = [keyword for keyword in keywords.members(rule) if keyword not in group]
    if whose is None:
        theirs = keywords.torch_defaults(rule.name)
        missing = [keyword for keyword in missing if not theirs or keyword in theirs]  # others are ours alone
        known = {*keywords.members(rule), *keywords.COMMON}
        strange = [keyword for keyword in group if keyword in _all_of_torchs() and keyword not in known]
        if missing or strange:
            got = f"without {', '.join(missing)}" if missing else f"with {', '.join(strange)}"
            raise ParameterError(
                f"{rule.name}: the checkpoint must be one of {rule.name}, got one {got}. "
                "Load it into the optimizer that saved it."
            )
    if rule.traits.needs == "closure" and "maximize" not in group:  # which ours have, and torch's LBFGS has not
        raise ParameterError(
            f"{rule.name}: the checkpoint must be one of thalweg's, got one of torch's, which keeps another history. "
            "Begin without it: a few iterations find the history anew."
        )
    if group.get("decoupled_weight_decay") and rule.name == "Adam":  # torch's AdamW has the key, always true
        raise ParameterError(
            f"{rule.name}: the checkpoint must have weight decay as an L2 penalty, got decoupled weight decay. "
            "Load it into AdamW."
        )
    final = {**defaults, **{key: value for key, value in group.items() if key not in keywords.TORCH_ONLY}}
    keywords.check_common(rule, final)
    return final


@cache
def _all_of_torchs() -> frozenset[str]:
    """The settings of any of torch's optimizers."""
    kinds = [one for one in vars(torch.optim).values() if isinstance(one, type)]
    names = [kind.__name__ for kind in kinds if issubclass(kind, torch.optim.Optimizer)]
    return frozenset(chain.from_iterable(map(keywords.torch_defaults, names))) - {
        "params",
        "defaults",
        *keywords.TORCH_ONLY,
    }


def _check_names(rule: Rule, groups: Groups, saved: Groups) -> None:
    """Refuse saved groups that hold other parameters, as far as both tell their names."""
    for number, (group, other) in enumerate(zip(groups, saved, strict=False)):
        ours, theirs = group.get("param_names", []), other.get("param_names", [])
        for here, there in zip(ours, theirs, strict=False):
            if here != there:
                raise ParameterError(
                    f"{rule.name}: the checkpoint must be one of the same routing, got {there} where group {number} "
                    f"has {here}. Route the model as it was routed when it was saved."
                )


def _check_record(rule: Rule, group: Mapping[str, Any], param: Tensor, record: Any) -> None:
    """Refuse what cannot be the state of a parameter of a group, at whose settings the rule is."""
    if not isinstance(record, Mapping):
        raise ParameterError(
            f"{rule.name}: the state of a parameter must be a dictionary, got {type(record).__name__}. "
            "Pass what state_dict() gave."
        )
    for key in ("step", *rule.traits.recurrent_scalars):
        if record.get(key) is not None and not _is_number(record[key], least=0.0 if key == "step" else -math.inf):
            raise ParameterError(
                f"{rule.name}: state[{key!r}] must be one finite number, got {record[key]!r}. "
                "Pass what state_dict() gave."
            )
    rounding = precision.effective_rounding(group.get("rounding", "nearest"), as_engine_tensor(param).dtype)
    for leaf in Program(rule, rounding=rounding).layout(as_engine_tensor(param).shape).values():
        entry = record.get(leaf.key)
        if isinstance(entry, Tensor) and entry.layout == torch.strided:
            check_shape(as_engine_tensor(entry), leaf.shape(as_engine_tensor(param).shape), leaf.key)


def _is_number(value: Any, least: float) -> bool:
    try:
        return math.isfinite(float(value)) and float(value) >= least
    except (TypeError, ValueError, RuntimeError):
        return False


def _kept(key: str, value: Any, param: Tensor) -> Any:
    """A saved entry of state, as it is to be kept. Old checkpoints of torch count steps in plain numbers."""
    if key == "step":
        return torch.as_tensor(value, dtype=torch.float32, device="cpu").clone()
    return value.to(device=param.device, copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
