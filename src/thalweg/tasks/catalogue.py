"""The built-in tasks by name, and tasks out of a user's file."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from thalweg.errors import KeywordError, SettingError, TaskError, UnknownNameError, nearest
from thalweg.tasks.algebra import matrix_factorization, modular_addition
from thalweg.tasks.classics import linear_regression, logistic_regression
from thalweg.tasks.digits import digits, digits_batchnorm, digits_cnn, digits_deep
from thalweg.tasks.images import elevation, patches
from thalweg.tasks.seeded import seeded
from thalweg.tasks.surfaces import noisy_quadratic, quadratic, rosenbrock
from thalweg.tasks.tables import breast_cancer, diabetes
from thalweg.tasks.task import Task, TrainingFunction, blamed
from thalweg.tasks.text import characters

# To add a task: write a function that returns it, and name it here.
FILE_MODULE = "thalweg_task_"  # with this begin the names of modules that task files become

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
    "matrix-factorization": matrix_factorization,
}

# What `compare --suite` takes by default: each trains within a second or so, has data, and no optimum that is known.
SUITE = ("logistic-regression", "breast-cancer", "diabetes", "digits", "patches")


def load(spec: str) -> Task | TrainingFunction:
    """The task that a command line names: `digits`, `quadratic:condition=1000`, or `path/to/file.py:name`."""
    head, _, tail = spec.partition(":")
    if head in BUILT_IN:
        return _built_in(head, tail)
    path, _, name = spec.rpartition(":")
    if path.endswith(".py"):
        return _from_file(Path(path), name)
    if spec.endswith(".py"):
        raise TaskError(f"{spec}: a task in a file is written path/to/file.py:name, got no name. Add :task, say.")
    raise UnknownNameError(
        f"thalweg: a task must be built in or path/to/file.py:name, got {spec!r}. {nearest(head, BUILT_IN)}"
    )


def _built_in(name: str, settings: str) -> Task:
    factory = BUILT_IN[name]
    knobs = list(inspect.signature(factory).parameters)
    given: dict[str, float] = {}
    for setting in filter(None, settings.split(",")):
        key, _, text = setting.partition("=")
        if key not in knobs:
            advice = nearest(key, knobs) if knobs else "It has no settings."
            raise KeywordError(f"{name}: {key!r} is not a setting of this task. {advice}")
        try:
            given[key] = float(text)
        except ValueError:
            raise SettingError(f"{name}: {key} must be a number, got {text!r}.") from None
    return factory(**given)


def module_of_file(path: Path) -> ModuleType:
    """A file of the user's, imported anew; raises TaskError with file and line where that fails."""
    if not path.is_file():
        raise TaskError(f"{path}: the file must exist, found none. The path is taken from {Path.cwd()}.")
    # Two files may share a name.
    module_name = f"{FILE_MODULE}{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    folder = str(path.parent.resolve())
    if folder not in sys.path:  # for good: it may import what lies beside it as late as in a training
        sys.path.insert(0, folder)
    try:
        # What a file draws when it is read is the same each time, or nothing could be resumed.
        with seeded(0):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # thalweg's own too: a Task made wrongly does not know where it was made
        raise blamed(f"{path}: the file must import", error) from error
    return module


def _from_file(path: Path, name: str) -> Task | TrainingFunction:
    module = module_of_file(path)
    found = getattr(module, name, None)
    if found is None:
        names = [key for key, value in vars(module).items() if isinstance(value, Task) or inspect.isfunction(value)]
        advice = nearest(name, names) if names else "It defines no task and no function."
        raise TaskError(f"{path}: the file must define {name!r}, and does not. {advice}")
    return as_task(found, name=f"{path.stem}:{name}", source=path.read_text())


def as_task(found: object, *, name: str = "", source: str = "") -> Task | TrainingFunction:
    """Take a Task as it is, and a function `train(make_optimizer, report)` as one."""
    if isinstance(found, Task | TrainingFunction):
        # A name and a source given here are those of the file; an object in memory keeps its own.
        return _renamed(found, name, source) if source else found
    if inspect.isfunction(found):
        signature = inspect.signature(found)
        try:
            signature.bind("make_optimizer", "report")
        except TypeError:
            raise TaskError(
                f"{name or found.__name__}: a training function must take (make_optimizer, report), got {signature}."
            ) from None
        return TrainingFunction(
            train=found, name=name or found.__name__, about=inspect.getdoc(found) or "", source=source
        )
    raise TaskError(
        f"{name or 'thalweg'}: a task must be a thalweg.Task or a function train(make_optimizer, report), "
        f"got {type(found).__name__}."
    )


def _renamed(task: Task | TrainingFunction, name: str, source: str) -> Task | TrainingFunction:
    default_name = type(task).__dataclass_fields__["name"].default
    return replace(task, name=name if task.name == default_name else task.name, source=source)
