"""State: everything that some steps of a training may change, saved beforehand and restored in place, bit by bit.

The steps run on the user's own objects, not on copies: a copy of a model whose methods are closures runs the original.
"""

import functools
import random
import sys
import types
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from thalweg.tasks.reproducibility.isolation import isolated
from thalweg.tasks.training import Training
from thalweg.tasks.user_code import is_users_file

MAX_OBJECTS = 200_000  # more are no part of a training
_CONSTANT = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, types.BuiltinFunctionType)
Restore = Callable[[], object]


@contextmanager
def restored(training: Training) -> Iterator[None]:
    """Restore, at the end of a ``with`` block, a training and all that its step and loss refer to.

    Tensors, gradients, modes, hooks, the optimizer, schedules, random generators, containers, closures and globals of
    the user's functions become as they were. An iterator that the user's step draws from by itself cannot be rewound.

    Args:
        training: The training. Its batches and its metric are not looked at.
    """
    saved = SavedState((training.model, training.optimizer, training.loss_fn, training.step))
    fields = dict(vars(training))
    with isolated(), _uncompiled():
        warnings.simplefilter("ignore")  # the run of the training shows them
        try:
            yield
        finally:
            vars(training).update(fields)
            saved.restore()


def _uncompiled() -> AbstractContextManager[Any]:
    """Run compiled models as they are written: what is watched would be compiled again and again."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


class SavedState:
    """The state of all objects that can be reached from some.

    Args:
        roots: The objects to begin with.

    Attributes:
        objects: The objects that were reached, by their id.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.objects: dict[int, Any] = {}
        self._restores: list[Restore] = []
        self._pending: list[Any] = list(roots)
        while self._pending and len(self.objects) < MAX_OBJECTS:
            self._save(self._pending.pop())

    def restore(self) -> None:
        """Restore all objects."""
        for restore in self._restores:
            restore()

    def _save(self, value: Any) -> None:
        if isinstance(value, _CONSTANT) or id(value) in self.objects:
            return
        self.objects[id(value)] = value
        if isinstance(value, Tensor):
            self._restores.append(_restore_tensor(value))
            self._pending.append(value.grad if value.is_leaf else None)
        elif isinstance(value, (dict, list, set, deque)):
            self._save_container(value)
        elif isinstance(value, (tuple, frozenset)):
            self._pending.extend(value)
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            self._save_function(value)
            return
        elif isinstance(value, torch.Generator):
            state = value.get_state()
            self._restores.append(lambda: value.set_state(state))
            return
        elif isinstance(value, random.Random):
            steps = value.getstate()
            self._restores.append(lambda: value.setstate(steps))
            return
        elif type(value).__module__.split(".")[0] == "numpy":
            self._save_numpy(value)
            return
        if not _is_of_the_interpreter(value):
            self._save_attributes(value)

    def _save_numpy(self, value: Any) -> None:
        if hasattr(value, "bit_generator"):
            state = value.bit_generator.state
            self._restores.append(lambda: setattr(value.bit_generator, "state", state))
        elif hasattr(value, "set_state"):
            words = value.get_state()
            self._restores.append(lambda: value.set_state(words))
        elif hasattr(value, "flags") and value.flags.writeable:
            copied = value.copy()
            self._restores.append(lambda: value.__setitem__(..., copied))

    def _save_container(self, value: Any) -> None:
        if isinstance(value, dict):
            kind = OrderedDict if isinstance(value, OrderedDict) else dict
            items = list(kind.items(value))
            self._pending.extend(item for pair in items for item in pair)
            self._restores.append(lambda: (kind.clear(value), kind.update(value, items)))
        elif isinstance(value, set):
            members = set(value)
            self._restores.extend((value.clear, lambda: value.update(members)))
        else:
            entries = list(value)
            self._pending.extend(entries)
            self._restores.append(lambda: (value.clear(), value.extend(entries)))

    def _save_attributes(self, value: Any) -> None:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and not isinstance(value, Tensor):
            self._save(attributes)
            call = getattr(type(value), "__call__", None)  # noqa: B004  # the function itself is wanted
            if isinstance(call, types.FunctionType):
                self._save_function(call)
        for kind in type(value).__mro__:
            for name in _slots(kind):
                entry = getattr(value, name, self)
                if entry is not self:
                    self._pending.append(entry)
                    self._restores.append(functools.partial(_set_attribute, value, name, entry))

    def _save_function(self, value: Any) -> None:
        if isinstance(value, types.MethodType):
            self._pending.extend((value.__self__, value.__func__))
            return
        if isinstance(value, functools.partial):
            self._pending.extend((value.func, value.args, value.keywords))
            return
        self.objects[id(value)] = value
        self._pending.extend((value.__defaults__, value.__kwdefaults__, value.__dict__))
        for cell in value.__closure__ or ():
            content = _content(cell)
            if content is not cell:
                self._pending.append(content)
                self._restores.append(functools.partial(setattr, cell, "cell_contents", content))
        if is_users_file(value.__code__.co_filename, value.__code__.co_name):
            self._save_globals(value.__globals__, _names(value.__code__))

    def _save_globals(self, names: dict[str, Any], used: set[str]) -> None:
        kept = {name: names[name] for name in used if name in names and not name.startswith("__")}
        self._restores.append(lambda: names.update(kept))
        self._pending.extend(kept.values())


def _restore_tensor(value: Tensor) -> Restore:
    storage = value.data  # with a version counter of its own: graphs that hold the tensor stay usable
    copied = storage.clone()
    grad = value.grad if value.is_leaf else None
    requires_grad = value.requires_grad

    def restore() -> None:
        with torch.no_grad():
            if value.layout is torch.strided and (
                value.data_ptr() != storage.data_ptr() or value.shape != storage.shape
            ):
                value.data = storage
            if value.is_leaf:
                value.requires_grad_(requires_grad)
                value.grad = grad
            storage.copy_(copied)

    return restore


def _is_of_the_interpreter(value: Any) -> bool:
    """Return True for threads, files, loggers and the like, which live on by themselves."""
    if isinstance(value, (dict, list, set, deque, tuple, types.SimpleNamespace)):
        return False
    return type(value).__module__.split(".")[0] in sys.stdlib_module_names


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _set_attribute(value: Any, name: str, entry: Any) -> None:
    if getattr(value, name, None) is not entry:
        object.__setattr__(value, name, entry)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return cell


def _names(code: types.CodeType) -> set[str]:
    """Return the global names that a function and the functions in it use."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names
