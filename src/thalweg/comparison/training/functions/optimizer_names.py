"""Names of the optimizers of a training function, found before its trainings are planned."""

import ast
import contextlib
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

from thalweg.comparison.contenders.contender import Contender
from thalweg.comparison.training.functions.optimizer_requests import OptimizerRequests
from thalweg.errors import TaskError
from thalweg.tasks import TrainingFunction, seeded
from thalweg.tasks.tuning import task_at
from thalweg.tasks.user_code import raise_task_errors


class _FirstStep(BaseException):
    """Leaves a training function before its first step; an ``except Exception`` of the user does not stop it."""


def names_of_optimizers(
    function: TrainingFunction, contender: Contender, seed: int, *, schedule: str | None = None
) -> tuple[str, ...]:
    """Return the names of the optimizers that a training function makes, in their order; one empty name if it has none.

    If the text of the function does not answer that, the function is run up to its first step. Names that stand in the
    text, ``name="d"``, follow: their optimizers may be made later.

    Args:
        function: The training function.
        contender: A contender whose optimizers it gets.
        seed: Seed of the random states.
        schedule: The learning rate schedule that the user chose, which the function must use; None if it may have its
            own.

    Raises:
        TaskError: If the function fails before its first step, or has a schedule of its own and must not.
    """
    text = _calls_in_text(function)
    if schedule is None and text.is_complete and not text.names:
        return ("",)

    def stop(*_: Any) -> None:
        raise _FirstStep

    requests = OptimizerRequests(function.name, contender, {}, before_step=stop)
    with seeded(seed), raise_task_errors(f"{function.name}: the function must train"), contextlib.suppress(_FirstStep):
        task_at(function, contender.task_values({})).run(requests, lambda *values, **named: None)
    uses = requests.uses()
    if schedule is not None and uses and all(use.schedule_steps is None for use in uses):
        raise TaskError(
            f"{function.name}: with the schedule {schedule!r} the function must take its schedule from thalweg, and "
            f"does not ({uses[0].line}). Write optimizer, scheduler = make_optimizer(model, scheduler=True, steps=N) "
            "and call scheduler.step() after each step; or leave out the schedule."
        )
    return tuple(dict.fromkeys([*(use.name for use in uses), *text.names])) or ("",)


@dataclass(frozen=True)
class _CallsInText:
    """The calls of ``make_optimizer`` in the text of a function.

    Attributes:
        names: The names that are written out, in order.
        is_complete: True if no other call and no other name is possible.
    """

    names: tuple[str, ...] = ()
    is_complete: bool = False


def _calls_in_text(function: TrainingFunction) -> _CallsInText:
    try:
        own = ast.parse(textwrap.dedent(inspect.getsource(function.train)))
        argument = next(iter(inspect.signature(function.train).parameters))
        parts = [own, *_called_from(own, ast.parse(function.source))]
    except (OSError, TypeError, ValueError, SyntaxError, StopIteration):  # no text, or not of this function alone
        return _CallsInText()
    nodes = [node for part in parts for node in ast.walk(part)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and _is_name(node.func, argument)]
    uses = [node for node in nodes if _is_name(node, argument)]
    values = [keyword.value for call in calls for keyword in call.keywords if keyword.arg in ("name", None)]
    names = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    is_complete = len(calls) == len(uses) and len(names) == len(values)
    return _CallsInText(tuple(dict.fromkeys(filter(None, names))), is_complete)


def _called_from(own: ast.AST, file: ast.Module) -> list[ast.AST]:
    """Return the functions and classes of a file that a function names, and those that these name in turn.

    A file may hold other training functions, whose optimizers have other names.
    """
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name: node for node in file.body if isinstance(node, kinds)}
    for node in own.body if isinstance(own, ast.Module) else []:  # the function itself
        if isinstance(node, kinds):
            defined.pop(node.name, None)
    called: list[ast.AST] = []
    pending = [own]
    while pending:
        named = {node.id for node in ast.walk(pending.pop()) if isinstance(node, ast.Name)}
        reached = [defined.pop(name) for name in sorted(named & defined.keys())]
        called += reached
        pending += reached
    return called


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
