"""Tuning a task's own numbers: which it declares, the task at values of them, and their place in the user's code."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from thalweg.errors import TaskError
from thalweg.tasks.task import Task
from thalweg.tasks.training_function import TrainingFunction
from thalweg.tasks.tuning.tunable import Tunable, tunable_of, tunables_of

OWN_NUMBERS = ("batch_size", "passes")  # of a Task; all others are arguments of its model function

_Task = TypeVar("_Task", Task, TrainingFunction)


def tunables_of_task(task: Task | TrainingFunction) -> dict[str, Tunable]:
    """Return the numbers that are tuned, by name.

    They are arguments of a training function, or of a task's ``model``, and a task's ``batch_size`` and ``passes``.

    Raises:
        TaskError: If two numbers have the same name, or the batch size of a DataLoader is to be tuned.
    """
    if isinstance(task, TrainingFunction):
        return tunables_of(task.train)
    of_model = tunables_of(task.model)
    own = {name: tunable_of(getattr(task, name)) for name in OWN_NUMBERS}
    for name in of_model.keys() & own.keys():
        raise TaskError(
            f"{task.name}: an argument of model must not have the name of the task's own number, got {name!r}. "
            "Rename it."
        )
    for name, tunable in own.items():
        if tunable is not None and not tunable.is_number:
            values = () if tunable.search is None else tunable.search.values
            raise TaskError(
                f"{task.name}: {name} must be a whole number, got the choices {', '.join(map(repr, values))}."
            )
    if own["batch_size"] is not None and not isinstance(task.splits.train, tuple):
        got = "no data" if task.splits.train is None else "a DataLoader, which makes its own batches"
        raise TaskError(
            f"{task.name}: batch_size can be tuned for data in memory, got {got}. Pass tensors, or write a training "
            "function with an argument batch_size."
        )
    return of_model | {name: tunable for name, tunable in own.items() if tunable is not None}


def code_of_tunables(task: Task | TrainingFunction) -> list[str]:
    """Return lines of Python with a place ``{name}`` for the value of each number that is tuned."""
    names = list(tunables_of_task(task))
    if isinstance(task, TrainingFunction):
        values = "".join(f", {name}={{{name}}}" for name in names)
        name = getattr(task.train, "__name__", task.name)
        return [f"{name}(make_optimizer, report{values})"] if names else []
    of_model = [name for name in names if name not in OWN_NUMBERS]
    maker = getattr(task.model, "__name__", "<lambda>").replace("<lambda>", "make_model")
    lines = [f"model = {maker}({', '.join(f'{name}={{{name}}}' for name in of_model)})"] if of_model else []
    return lines + [f"{name} = {{{name}}}" for name in names if name in OWN_NUMBERS]


def task_at(task: _Task, values: Mapping[str, Any]) -> _Task:
    """Return a task at values of its tuned numbers. The data are shared.

    Args:
        task: The task or training function.
        values: Values of some of its numbers. The others keep their defaults.
    """
    if not values:
        return task
    if isinstance(task, TrainingFunction):
        return replace(task, train=partial(task.train, **values))
    own: dict[str, Any] = {name: value for name, value in values.items() if name in OWN_NUMBERS}
    of_model = {name: value for name, value in values.items() if name not in OWN_NUMBERS}
    placed = replace(task, model=partial(task.model, **of_model) if of_model else task.model, **own)
    placed.__dict__["splits"] = task.splits
    return placed
