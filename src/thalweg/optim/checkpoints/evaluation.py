"""Checkpoints that are saved while an optimizer evaluates: they hold the values that are trained, too."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from torch import Tensor

from thalweg.errors import ParameterError
from thalweg.rules import Rule

# While an optimizer evaluates, the key of the value of a parameter that is trained, in its state; and the key of saved
# groups that says that it evaluates.
TRAIN_PARAM = "train_param"
EVALUATING = "evaluating"


def with_mode(state_dict: dict[str, Any], *, evaluating: bool) -> dict[str, Any]:
    """Return a checkpoint that says in each group whether the optimizer evaluates.

    Its records are copies: when the optimizer trains again it removes an entry from its own.
    """
    return state_dict | {
        "state": {index: dict(record) for index, record in state_dict["state"].items()},
        "param_groups": [{**group, EVALUATING: evaluating} for group in state_dict["param_groups"]],
    }


def is_evaluating(saved: Mapping[str, Any]) -> bool:
    """Return True if a checkpoint was saved while the optimizer evaluated."""
    return bool(_evaluating_groups(saved))


def check_evaluation(rule: Rule, saved: Mapping[str, Any]) -> None:
    """Raise ParameterError if a checkpoint was saved in an evaluation, and the values to train on are not in it."""
    if not rule.traits.has_eval_params:  # a key of this name is the user's own
        return
    if not is_evaluating(saved) and any(
        isinstance(record, Mapping) and TRAIN_PARAM in record for record in saved["state"].values()
    ):
        raise ParameterError(
            f"{rule.name}: the groups of a checkpoint that was saved between eval() and train() must say "
            f"{EVALUATING!r}, got {TRAIN_PARAM!r} in its state and no such group. Pass the result of state_dict()."
        )
    for group in saved["param_groups"]:
        if not isinstance(group.get(EVALUATING, False), bool):
            raise ParameterError(
                f"{rule.name}: {EVALUATING} in the groups of a checkpoint must be True or False, got "
                f"{group[EVALUATING]!r:.80}. Pass the result of state_dict()."
            )
    for index in chain.from_iterable(group.get("params", ()) for group in _evaluating_groups(saved)):
        record = saved["state"].get(index)
        if isinstance(record, Mapping) and record and not isinstance(record.get(TRAIN_PARAM), Tensor):
            raise ParameterError(
                f"{rule.name}: a checkpoint that was saved between eval() and train() must hold {TRAIN_PARAM!r} for "
                f"each parameter, got {', '.join(map(repr, record))}. If only the entries of this optimizer's own "
                "state_dict() are read from a file, call eval() before it."
            )


def _evaluating_groups(saved: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [group for group in saved["param_groups"] if isinstance(group, Mapping) and group.get(EVALUATING)]
