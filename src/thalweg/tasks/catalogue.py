"""The built-in tasks by name, and tasks from a user's file."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch

from thalweg.errors import KeywordError, SettingError, TaskError, UnknownNameError, nearest
from thalweg.tasks.built_in.algebra import matrix_factorization, modular_addition
from thalweg.tasks.built_in.classics import linear_regression, logistic_regression
from thalweg.tasks.built_in.digits import digits, digits_batchnorm, digits_cnn, digits_deep
from thalweg.tasks.built_in.images import elevation, patches
from thalweg.tasks.built_in.surfaces import ackley, noisy_quadratic, quadratic, rastrigin, rosenbrock
from thalweg.tasks.built_in.tables import breast_cancer, diabetes
from thalweg.tasks.built_in.text import characters
from thalweg.tasks.files import spec_of_file
from thalweg.tasks.task import Task
from thalweg.tasks.training import Training
from thalweg.tasks.training_function import TrainingFunction
from thalweg.tasks.user_code import as_task_error, line_of, task_error

MAX_FILES = 1000  # of a folder that are searched for a similar name

_Task = TypeVar("_Task", bound=Task | TrainingFunction)

# To add a task, write a function that returns it, and name it here.
BUILT_IN: dict[str, Callable[..., Task]] = {
    "linear-regression": linear_regression,
    "logistic-regression": logistic_regression,
    "breast-cancer": breast_cancer,
    "diabetes": diabetes,
    "digits": digits,
    "digits-cnn": digits_cnn,
    "digits-batchnorm": digits_batchnorm,
    "digits-deep": digits_deep,
    "patches": patches,
    "elevation": elevation,
    "characters": characters,
    "modular-addition": modular_addition,
    "quadratic": quadratic,
    "noisy-quadratic": noisy_quadratic,
    "rosenbrock": rosenbrock,
    "rastrigin": rastrigin,
    "ackley": ackley,
    "matrix-factorization": matrix_factorization,
}
"""A function that makes each built-in task, by name. Its keyword arguments are the settings of the task."""

SUITE = ("logistic-regression", "breast-cancer", "diabetes", "digits", "patches")
"""The default tasks of ``compare --suite``: each has data, no known optimum, and trains in about a second."""


def load(spec: str) -> Task | TrainingFunction:
    """Return the task that a command line names.

    Args:
        spec: A built-in name (``"digits"``), a name with settings (``"quadratic:condition=1000"``), or a name in a
            Python file (``"path/to/file.py:name"``).

    Returns:
        The task, or the training function.

    Raises:
        UnknownNameError: If there is no such built-in task.
        KeywordError: If the task has no such setting.
        SettingError: If the value of a setting is no number or out of its bounds.
        TaskError: If the file does not exist, cannot be imported, or does not define the task.

    Example:
        >>> from thalweg.tasks import load
        >>> load("quadratic:condition=10").name
        'quadratic:condition=10,dimensions=20'
    """
    head, _, tail = spec.partition(":")
    if head in BUILT_IN:
        return _built_in(head, tail)
    path, _, name = spec.rpartition(":")
    if path.endswith(".py"):
        return _from_file(Path(path), name)
    if spec.endswith(".py"):
        raise _no_name(Path(spec), "task", lambda value: isinstance(value, Task) or _is_training_function(value))
    raise UnknownNameError(
        f"thalweg: a task must be built in or path/to/file.py:name, got {spec!r}. {_near_task(head, tail)}"
    )


def _near_task(head: str, tail: str) -> str:
    """Return a question with the file that lacks its suffix, or advice with built-in names."""
    file = Path(f"{head}.py")
    with suppress(OSError, ValueError):  # no name of a file, for example too long
        if file.is_file():
            return f"Did you mean {file}:{tail or 'NAME'}?"
    return nearest(head, BUILT_IN)


def _is_training_function(value: object) -> bool:
    return inspect.isfunction(value) and "make_optimizer" in inspect.signature(value).parameters


def _is_diagnosed(value: object) -> bool:
    """Return whether a value of a file can be diagnosed, as far as its name and kind tell."""
    return isinstance(value, Task) or (inspect.isfunction(value) and [*inspect.signature(value).parameters] == ["seed"])


def _no_name(path: Path, kind: str, is_meant: Callable[[object], bool]) -> TaskError:
    """Return the error about a file without a name, with the names in it that are meant."""
    meant = [f"{path}:{name}" for name, value in vars(module_of_file(path)).items() if is_meant(value)]
    advice = f"Write {' or '.join(meant)}." if meant else f"Add the name, say :{kind}."
    return TaskError(f"{path}: a {kind} in a file is written path/to/file.py:name, got no name. {advice}")


def _built_in(name: str, text: str) -> Task:
    """Make a built-in task with the settings in a text such as ``condition=10,dimensions=3``."""
    factory = BUILT_IN[name]
    known = list(inspect.signature(factory).parameters)
    settings: dict[str, float] = {}
    for setting in filter(None, text.split(",")):
        key, _, value = setting.partition("=")
        if key not in known:
            advice = nearest(key, known) if known else "It has no settings."
            raise KeywordError(f"{name}: {key!r} is not a setting of this task. {advice}")
        try:
            settings[key] = float(value)
        except ValueError:
            raise SettingError(f"{name}: {key} must be a number, got {value!r}.") from None
    return factory(**settings)


def _near_files(path: Path) -> str:
    """Return a question with the Python files of the folder whose names are similar; empty if there are none."""
    try:
        files = [file.name for file in islice(path.parent.glob("*.py"), MAX_FILES)]
    except (OSError, ValueError):
        return ""
    advice = nearest(path.name, files) if files else ""
    if not advice.startswith("Did you mean"):
        return ""
    return f"{advice} " if path.parent == Path() else f"{advice[:-1]}, in {path.parent}? "


def module_of_file(path: Path) -> ModuleType:
    """Import a user's file anew and return its module. Raises TaskError with file and line if that fails."""
    try:
        is_file = path.is_file()
    except OSError:  # a name that is too long
        is_file = False
    if not is_file:
        raise TaskError(
            f"{path}: the file must exist, got no such file. {_near_files(path)}Relative paths start at {Path.cwd()}."
        )
    spec = spec_of_file(path)
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(path.parent.resolve())
    if folder not in sys.path:  # permanently: the file may import its neighbours as late as in a training
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # thalweg's own errors too: they do not name the file
        raise as_task_error(f"{path}: the file must import", error) from error
    return module


def _from_file(path: Path, name: str) -> Task | TrainingFunction:
    return as_task(_value_in_file(path, name), name=f"{path.stem}:{name}", source=path.read_text())


def _value_in_file(path: Path, name: str) -> object:
    module = module_of_file(path)
    value = getattr(module, name, None)
    if value is None:
        names = [key for key, value in vars(module).items() if isinstance(value, Task) or inspect.isfunction(value)]
        advice = nearest(name, names) if names else "It defines no task and no function."
        raise TaskError(f"{path}: the file must define {name!r}, and does not. {advice}")
    return value


def load_training(spec: str) -> Task | Callable[[int], Training]:
    """Return the task, or the function of a seed that makes a training, that a command line names.

    Args:
        spec: A built-in name (``"digits"``), or a name in a Python file (``"path/to/file.py:training"``).

    Returns:
        The task; or the function, which is not called.

    Raises:
        UnknownNameError: If there is no such built-in task.
        TaskError: If the file does not exist, cannot be imported, or defines neither under this name.

    Example:
        >>> from thalweg.tasks.catalogue import load_training
        >>> load_training("digits").name
        'digits'
    """
    path, _, name = spec.rpartition(":")
    if spec.endswith(".py"):
        raise _no_name(Path(spec), "training", _is_diagnosed)
    value = _value_in_file(Path(path), name) if path.endswith(".py") else load(spec)
    if isinstance(value, Task):
        return _with_source(value, f"{Path(path).stem}:{name}", "") if path.endswith(".py") else value
    if inspect.isfunction(value) and not _is_training_function(value):
        return value
    raise task_error(
        spec,
        "a diagnosis needs a function training(seed) that returns a thalweg.Training, or a thalweg.Task",
        "a function train(make_optimizer, report)"
        if inspect.isfunction(value)
        else f"the class {value.__name__}"
        if inspect.isclass(value)
        else type(value).__name__,
        "Write def training(seed): make the model, the optimizer and the batches of your loop, and return "
        "thalweg.Training(model, optimizer, batches, loss_fn).",
        where=line_of(value) if callable(value) else "",
    )


def as_task(value: object, *, name: str = "", source: str = "") -> Task | TrainingFunction:
    """Return a task as it is, and a function ``train(make_optimizer, report)`` as a TrainingFunction.

    The function may also take ``device``.

    Args:
        value: A Task, a TrainingFunction, or a function.
        name: Name for a function, or for a task of a file that has no name. Defaults to the function's name.
        source: Text of the file that defines the value; empty for an object in memory.

    Returns:
        The task or training function.

    Raises:
        TaskError: If the value is no task, or a function that takes other arguments.

    Example:
        >>> from thalweg.tasks import as_task
        >>> def train(make_optimizer, report): ...
        >>> as_task(train).name
        'train'
    """
    if isinstance(value, Task | TrainingFunction):
        return _with_source(value, name, source) if source else value
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        device = {"device": "cpu"} if "device" in signature.parameters else {}
        try:
            signature.bind("make_optimizer", "report", **device)
        except TypeError:
            raise task_error(
                name or value.__name__,
                "a training function must take (make_optimizer, report), or also device",
                str(signature),
                "Give any other argument a default; thalweg.choice(32, 64) makes it a number to tune.",
                where=line_of(value),
            ) from None
        return TrainingFunction(
            train=value, name=name or value.__name__, about=inspect.getdoc(value) or "", source=source
        )
    who = name or "thalweg"
    if inspect.isclass(value):
        is_model = issubclass(value, torch.nn.Module)
        remedy = (
            f"Write task = thalweg.Task(model={value.__name__}, data=..., loss=...), and name that."
            if is_model
            else f"Make an instance of {value.__name__}, and name that, if it is a task."
        )
        kind = "a model" if is_model else "a class"
        raise task_error(
            who,
            "a task must be a thalweg.Task or a function train(make_optimizer, report)",
            f"{kind}, {value.__name__}",
            remedy,
            where=line_of(value),
        )
    raise task_error(
        who,
        "a task must be a thalweg.Task or a function train(make_optimizer, report)",
        type(value).__name__,
        "Write def train(make_optimizer, report), and call it there." if callable(value) else "",
        where=line_of(value) if callable(value) else "",
    )


def _with_source(task: _Task, name: str, source: str) -> _Task:
    """Return the task with the source of its file, and with this name if it has none of its own."""
    default_name = type(task).__dataclass_fields__["name"].default
    return replace(task, name=name if task.name == default_name else task.name, source=source)
