"""Functions of torch that are called while a training runs: recorded, replaced, undone."""

import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from thalweg.tasks.training import Training
from thalweg.tasks.user_code import is_users_file

Function = Callable[..., Any]
Replacement = Callable[[Function, tuple[Any, ...], dict[str, Any]], Any]


def name_of_function(function: Any) -> str:
    """Return the bare name of one of torch's functions: ``softmax`` for ``torch.Tensor.softmax``.

    Example:
        >>> name_of_function(torch.Tensor.__truediv__), name_of_function(torch.Tensor.sqrt)
        ('div', 'sqrt')
    """
    name = getattr(function, "__name__", "")
    if name == "__get__":  # of a property, such as Tensor.data
        return getattr(getattr(function, "__self__", None), "__name__", name)
    return _ALIASES.get(name, name)


_ALIASES = {
    "__truediv__": "div",
    "true_divide": "div",
    "divide": "div",
    "__pow__": "pow",
    "__rpow__": "rpow",
    "__rtruediv__": "rdiv",
    "__rdiv__": "rdiv",
    "special_softmax": "softmax",
    "_softmax": "softmax",
}


@dataclass(frozen=True)
class SourceLine:
    """A line of the user's code that calls a function of torch.

    Attributes:
        file: Its file.
        number: Its number.
        text: Its text.
        columns: Where the call begins and ends in the text, if Python knows.
    """

    file: str
    number: int
    text: str
    columns: tuple[int, int] | None = None


def calling_line_of_user() -> SourceLine | None:
    """Return the innermost line of the user's code that is being executed; None if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if is_users_file(code.co_filename, code.co_name):
            return SourceLine(
                code.co_filename,
                frame.f_lineno,
                linecache.getline(code.co_filename, frame.f_lineno).strip(),
                _columns(frame),
            )
        frame = frame.f_back
    return None


def _columns(frame: FrameType) -> tuple[int, int] | None:
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    first, last, begin, end = positions
    return (begin, end) if first == last and begin is not None and end is not None else None


class Replacing(TorchFunctionMode):
    """Calls replacements instead of torch's functions, by name.

    Args:
        replacements: Called with the function, its arguments and its keyword arguments, by the function's name.
    """

    def __init__(self, replacements: Mapping[str, Replacement]) -> None:
        super().__init__()
        self.replacements = replacements
        self.lines: dict[tuple[str, int], SourceLine] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replacement = self.replacements.get(name_of_function(func))
        if replacement is None:
            return func(*args, **(kwargs or {}))
        if line := calling_line_of_user():
            self.lines.setdefault((line.file, line.number), line)
        return replacement(func, tuple(args), kwargs or {})


@dataclass
class _Call:
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any = field(repr=False)


# What an output may pass through after its activation.
_SHAPES = frozenset(
    [
        "squeeze",
        "unsqueeze",
        "reshape",
        "view",
        "flatten",
        "permute",
        "transpose",
        "contiguous",
        "movedim",
        "unflatten",
        "view_as",
        "__getitem__",
        "t",
    ]
)
_BOUNDS = frozenset(("clamp", "clip", "clamp_min", "clamp_max", "float", "double"))


class Recording(TorchFunctionMode):
    """Records the calls of some functions, so that a result can be traced to the call that made it.

    Args:
        names: The functions to record.
    """

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names | _SHAPES | _BOUNDS
        self.recorded = names
        self.calls: dict[int, _Call] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and name_of_function(func) in self.names:
            self.calls[id(result)] = _Call(func, tuple(args), kwargs or {}, result)
        return result

    def call_of(self, result: Any) -> tuple[str, _Call] | None:
        """Return the name and the call of the wanted function that made a result; None if another one made it."""
        call = self.calls.get(id(result))
        if call is None or call.result is not result:
            return None
        name = name_of_function(call.function)
        if name in self.recorded:
            return name, call
        return self.call_of(call.args[0])

    def rebuilt(self, result: Any, replacement: Replacement) -> Any:
        """Return a result with another call in the place of the wanted one; the result itself if there is none."""
        if self.call_of(result) is None:
            return result
        call = self.calls[id(result)]
        name = name_of_function(call.function)
        if name in self.recorded:
            return replacement(call.function, call.args, call.kwargs)
        inner = self.rebuilt(call.args[0], replacement)
        return inner if name in _BOUNDS else call.function(inner, *call.args[1:], **call.kwargs)


def rebuild_output(module: nn.Module, names: frozenset[str], replacement: Replacement) -> None:
    """Replace the function that makes the output of a module, whether a module or the text of ``forward`` calls it.

    Args:
        module: The module. Its hooks are used, so it may be copied.
        names: The functions that are replaced where the output is their result.
        replacement: Called instead.
    """
    open_modes: list[Recording] = []

    def enter(owner: nn.Module, args: Any) -> None:
        open_modes.append(Recording(names))
        open_modes[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(owner: nn.Module, args: Any, output: Any) -> Any:
        mode = open_modes.pop()
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        return tree_map(lambda part: mode.rebuilt(part, replacement) if isinstance(part, Tensor) else part, output)

    module.register_forward_pre_hook(enter, prepend=True)
    module.register_forward_hook(leave, always_call=True)


def output_calls(model: nn.Module, inputs: tuple[Any, ...], names: frozenset[str]) -> list[tuple[str, Any, Any]]:
    """Return the function, input and result of each output that one of some functions made."""
    mode = Recording(names)
    with mode:
        output = model(*inputs)
    matches: list[tuple[str, Any, Any]] = []

    def visit(part: Any) -> Any:
        if isinstance(part, Tensor) and (call := mode.call_of(part)):
            matches.append((call[0], call[1].args[0], call[1].result))
        return part

    tree_map(visit, output)
    return matches


def replace_functions(
    training: Training, replacements: Mapping[str, Replacement], where: nn.Module | None
) -> Replacing:
    """Replace functions of torch while a module runs; while the whole training runs, its loss too, for None."""
    mode = Replacing(replacements)
    if where is not None:
        run_within(where, mode)
        return mode
    run_within(training.model, mode)
    loss_fn = training.loss_fn
    training.loss_fn = wrapped(loss_fn, mode)
    if training.step is not None:
        training.step = wrapped(training.step, mode)
    return mode


@contextmanager
def once(mode: Any) -> Iterator[None]:
    """Enter a mode unless it is entered already."""
    if getattr(mode, "_entered", False):
        yield
        return
    mode._entered = True
    try:
        with mode:
            yield
    finally:
        mode._entered = False


class wrapped:  # noqa: N801  (it is called like a function, and copied with what it wraps)
    """A function that runs within a mode. Its other attributes are those of the function."""

    def __init__(self, function: Function, mode: Any) -> None:
        self._function, self._mode = function, mode

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with once(self._mode):
            return self._function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_function":
            raise AttributeError(name)
        return getattr(self._function, name)


def run_within(module: nn.Module, mode: Any) -> None:
    """Let a module run within a mode."""
    contexts: list[Any] = []

    def enter(owner: nn.Module, args: Any) -> None:
        contexts.append(once(mode))
        contexts[-1].__enter__()

    def leave(owner: nn.Module, args: Any, output: Any) -> None:
        contexts.pop().__exit__(None, None, None)

    module.register_forward_pre_hook(enter, prepend=True)
    module.register_forward_hook(leave, always_call=True)


def is_float(value: Any) -> bool:
    """Return whether a value is a tensor of real numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def no_random(function: Callable[[], Any]) -> Any:
    """Call a function and leave the global random state as it was."""
    has_devices = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if has_devices else []):
        return function()


def undisturbed(model: nn.Module, function: Callable[[], Any]) -> Any:
    """Call a function that runs the model; its buffers and the global random state end as they were."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        return no_random(function)
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
