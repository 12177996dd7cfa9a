"""Optimizers of a training: found, watched and altered in place."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.tasks.training import Training

Group = dict[str, Any]
_T = TypeVar("_T")
_MOST_OBJECTS = 2000  # that are visited from a user's step


def reachable(roots: Iterable[Any], kind: type[_T]) -> Iterator[_T]:
    """Yield the objects of a class that values refer to: through functions, containers and a user's own objects.

    Args:
        roots: Values to begin at.
        kind: The class. Objects of it are not looked into, except functions; nor are tensors, and modules and functions
            of torch.
    """
    waiting, visited = list(roots), set[int]()
    keep: list[Any] = []  # so that no id is used twice
    while waiting and len(visited) < _MOST_OBJECTS:
        value = waiting.pop(0)
        if id(value) in visited or isinstance(value, str | bytes | int | float | Tensor | ModuleType | type):
            continue
        visited.add(id(value))
        keep.append(value)
        if isinstance(value, kind):
            yield value
        if isinstance(value, FunctionType) or not isinstance(value, (kind, nn.Module)):
            waiting += _neighbours(value)


def _neighbours(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        if value.__module__ and value.__module__.partition(".")[0] == "torch":
            return []
        variables = inspect.getclosurevars(value)
        return [*variables.nonlocals.values(), *variables.globals.values(), *(value.__defaults__ or ())]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set):
        return list(value)
    if type(value).__module__.partition(".")[0] in ("torch", "builtins", "numpy"):
        return []
    return [*getattr(value, "__dict__", {}).values(), *_own_call(value)]


def _own_call(value: Any) -> list[Any]:
    """Return what runs if an object is called."""
    return [value.__call__] if callable(value) and isinstance(value.__call__, MethodType) else []


def optimizers_of(training: Training) -> list[Any]:
    """Return the optimizers that step a training.

    They are ``training.optimizer`` or those inside it, and those that the user's step refers to. An object that is no
    ``torch.optim.Optimizer`` and holds none counts itself.
    """
    matches = list(reachable([training.optimizer, training.step], Optimizer))
    return matches or [training.optimizer]


def groups_of(training: Training) -> list[Group]:
    """Return the parameter groups of all optimizers, each once."""
    groups = [group for optimizer in optimizers_of(training) for group in optimizer.param_groups]
    return list({id(group): group for group in groups}.values())


def held_parameters(training: Training) -> set[int]:
    """Return the ids of the parameters that an optimizer holds."""
    return {id(param) for group in groups_of(training) for param in group["params"]}


OnStep = Callable[[Any], None]


def around_step(optimizer: Any, before: OnStep | None = None, after: OnStep | None = None) -> None:
    """Call functions with an optimizer before and after each of its steps."""
    if isinstance(optimizer, Optimizer):
        if before is not None:
            optimizer.register_step_pre_hook(_as_hook(before))
        if after is not None:
            optimizer.register_step_post_hook(_as_hook(after))
        return
    step = optimizer.step

    @functools.wraps(step)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(optimizer)
        result = step(*args, **kwargs)
        if after is not None:
            after(optimizer)
        return result

    optimizer.step = wrapped


def _as_hook(function: OnStep) -> Callable[[Any, Any, Any], None]:
    def hook(owner: Any, args: Any, kwargs: Any) -> None:
        function(owner)

    return hook


def scale_lr(training: Training, lr: Callable[[Group, int], Any], only: Callable[[Any], bool] | None = None) -> None:
    """Step with other learning rates; the groups keep theirs, so schedules go on as they would.

    Args:
        training: The training.
        lr: The rate of a group at a step, counted from 0.
        only: Says which optimizers are changed. Defaults to all.
    """
    for optimizer in optimizers_of(training):
        if only is None or only(optimizer):
            _scale_lr_of(optimizer, lr)


def _scale_lr_of(optimizer: Any, lr: Callable[[Group, int], Any]) -> None:
    kept: list[Any] = []
    count = 0

    def before(owner: Any) -> None:
        kept[:] = [group["lr"] for group in owner.param_groups]
        for group in owner.param_groups:
            group["lr"] = lr(group, count)

    def after(owner: Any) -> None:
        nonlocal count
        count += 1
        for group, value in zip(owner.param_groups, kept, strict=True):
            group["lr"] = value

    around_step(optimizer, before, after)


def start_lr(group: Group) -> float:
    """Return the learning rate of a group before any schedule."""
    return float(group["initial_lr"] if "initial_lr" in group else group["lr"])


def is_scheduled(training: Training) -> bool:
    """Return whether a scheduler holds the groups already."""
    return any("initial_lr" in group for group in groups_of(training))


def replace_optimizer(old: Any, new: Optimizer) -> None:
    """Let the steps of one optimizer be taken by another one.

    The old object stays what the user's step calls. A schedule of its learning rates acts on the new ones by the same
    factors.

    Args:
        old: The optimizer to replace.
        new: An optimizer with as many groups, of the same parameters.
    """
    rates = [
        (group, start_lr(group), fresh, fresh["lr"])
        for group, fresh in zip(old.param_groups, new.param_groups, strict=True)
    ]

    def step(self: Any, closure: Any = None) -> Any:
        for group, start, fresh, lr in rates:
            fresh["lr"] = lr * (group["lr"] / start if start else 1.0)
        self._opt_called = True  # torch's schedulers ask
        return new.step() if closure is None else new.step(closure)

    if not isinstance(old, Optimizer):
        old.step = MethodType(step, old)
        return
    hooked = Optimizer.profile_hook_step(step)
    hooked._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    old.step = MethodType(hooked, old)  # type: ignore[method-assign]
