"""Lines of Python that a user pastes: the optimizers of a contender, their schedules, and the task's own numbers."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.comparison.contenders.record import ContenderRecord
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.comparison.training.functions.parameter_groups import LR_SCALE, lr_of_group

_PLACE = re.compile(r"\{(\w+)\}")  # of a value in a line
_ASSIGNMENT = re.compile(r"\w+ = ")
_MODEL = "model"  # the first argument in the code of a contender
_SIMPLE = (ast.Name, ast.Attribute, ast.Call, ast.Subscript)


def lines_of_code(
    contender: ContenderRecord,
    settings: Mapping[str, Any],
    uses: Sequence[OptimizerUse] = (),
    schedule: TrainingSchedule | None = None,
) -> list[str]:
    """Return the lines for a contender at some settings.

    Args:
        contender: The contender.
        settings: Values that replace those of its start.
        uses: The optimizers that a training function made, for its own arguments; empty for a task.
        schedule: The schedule of optimizers that were requested with a scheduler.

    Returns:
        Lines that set the task's own numbers, then a line for each optimizer, followed by that of its scheduler, then
        the call of a training function with its numbers.
    """
    lines = []
    uses = _distinct(uses) or [OptimizerUse(name) for name in contender.optimizer_names]
    unnamed = 0
    for use in uses:
        unnamed += not use.name
        suffix = f"_{use.name}" if use.name else f"_{unnamed}" if unnamed > 1 else ""
        lr = {**contender.start, **settings}[f"{use.name}.lr" if use.name else "lr"]
        lines.append(
            contender.line_of_code(
                settings,
                name=use.name,
                variable=f"optimizer{suffix}",
                **_call_parts(contender.member(use.name), use, lr),
            )
        )
        if schedule is not None and use.schedule_steps is not None:
            of_use = TrainingSchedule(use.schedule_steps, contender.member(use.name).schedule or schedule.schedule)
            lines.append(of_use.line_of_code(f"optimizer{suffix}", f"scheduler{suffix}") or "")
    values = {key: repr(value) for key, value in {**contender.start, **settings}.items() if "." not in key}
    own = [_PLACE.sub(lambda place: values.get(place[1], place[0]), line) for line in contender.task_code]
    assigned = [line for line in own if _ASSIGNMENT.match(line)]  # a model and numbers, before they are used
    return [*assigned, *filter(None, lines), *(line for line in own if line not in assigned)]


def uses_at(settings: Mapping[str, Any], trials: Mapping[str, Sequence[TrialRecord]]) -> list[OptimizerUse]:
    """Return the optimizers that the first training at some settings made, among trials by stage."""
    at_settings = (trial for stage in trials.values() for trial in stage if trial.settings == settings)
    return next((trial.result.optimizers for trial in at_settings if trial.result.optimizers), [])


def _distinct(uses: Sequence[OptimizerUse]) -> list[OptimizerUse]:
    """Return the first of the uses that come from the same line: a loop over folds makes many alike."""
    return list({(use.name, use.line): use for use in reversed(uses)}.values())[::-1]


def _call_parts(contender: ContenderRecord, use: OptimizerUse, lr: float) -> dict[str, str]:
    """Return the parts of the call that makes the optimizer: its arguments, and the code after it."""
    is_whole = use.takes_model and not use.model
    if not contender.then or is_whole:
        return {"arguments": _arguments(contender.arguments, use, lr), "then": contender.then}
    # Some parameters of a model that is routed: the model is read, and its plan gets them.
    own = f"{_operand(use.argument)}.parameters()" if use.takes_model else _arguments("params", use, lr)
    arguments = _operand(use.model or _MODEL) + contender.arguments.removeprefix(_MODEL)
    return {"arguments": arguments, "then": f"{contender.then.removesuffix('()')}({own})"}


def _operand(text: str) -> str:
    """Return the text of an expression, in parentheses if an operator might tear it apart; any other text as it is."""
    try:
        return text if isinstance(ast.parse(text, mode="eval").body, _SIMPLE) else f"({text})"
    except SyntaxError:  # a store of somebody else's
        return _MODEL


def _arguments(arguments: str, use: OptimizerUse, lr: float) -> str:
    """Return the positional arguments of a contender's code with what the training function passed."""
    if not use.argument:
        if use.lr_scales:
            groups = [
                f"{{'params': params_{k}, 'lr': {lr_of_group(lr, scale)!r}}}"
                for k, scale in enumerate(use.lr_scales, 1)
            ]
            return f"[{', '.join(groups)}]"
        return arguments
    try:
        expression = ast.parse(use.argument, mode="eval").body
    except SyntaxError:  # a store of somebody else's
        return arguments
    if use.takes_model:
        return _operand(use.argument) + arguments.removeprefix(_MODEL)
    if not use.lr_scales:
        return use.argument
    lrs = [lr_of_group(lr, scale) for scale in use.lr_scales]
    groups_of_user = expression.elts if isinstance(expression, ast.List) else []
    if len(groups_of_user) == len(lrs) and all(map(_has_plain_keys, groups_of_user)):
        return f"[{', '.join(_group_with_lr(group, own) for group, own in zip(groups_of_user, lrs, strict=True))}]"
    return f"[{{**group, 'lr': lr}} for group, lr in zip({use.argument}, {lrs!r})]"


def _has_plain_keys(node: ast.expr) -> bool:
    return isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys)


def _group_with_lr(group: ast.expr, lr: float) -> str:
    """Return the text of a group, written as a dictionary, with another learning rate."""
    assert isinstance(group, ast.Dict)
    entries = {
        key.value: ast.unparse(value)
        for key, value in zip(group.keys, group.values, strict=True)
        if isinstance(key, ast.Constant)
    }
    own = {key: text for key, text in entries.items() if key not in ("lr", LR_SCALE)} | {"lr": repr(lr)}
    return f"{{{', '.join(f'{key!r}: {text}' for key, text in own.items())}}}"
