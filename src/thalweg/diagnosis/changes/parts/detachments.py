"""Cuts of the graph in a forward pass, found and undone."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from thalweg.diagnosis.changes.parts.batches import drawn, parts_of
from thalweg.diagnosis.changes.parts.functions import (
    SourceLine,
    calling_line_of_user,
    name_of_function,
    once,
    undisturbed,
)
from thalweg.diagnosis.changes.parts.source import source_of
from thalweg.tasks.training import Training

_CUTS = frozenset(("detach", "detach_", "data", "clone_detached"))
_OUT = frozenset(("tolist", "numpy", "__array__"))
_BACK = frozenset(("tensor", "as_tensor", "asarray", "from_numpy"))


class Attaching(TorchFunctionMode):
    """Undoes what cuts the graph: detach, .data, no_grad, and a way through lists or arrays and back."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[tuple[str, int], SourceLine] = {}
        self._outside: dict[int, tuple[Any, Tensor]] = {}  # the lists and arrays that tensors became
        self._kept: list[tuple[Any, str, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of_function(func)
        subject = args[0] if args else None
        if name in _CUTS and _has_graph(subject):
            self._note()
            return subject
        if name in _OUT and isinstance(subject, Tensor):
            result = func(subject.detach(), *args[1:], **kwargs)
            matches = self._outside.get(id(subject))
            self._outside[id(result)] = (result, matches[1] if matches else subject)
            return result
        if name in _BACK and args:
            matches = self._outside.get(id(subject))
            original = matches[1] if matches else subject
            if isinstance(original, Tensor) and original.requires_grad:
                self._note()
                return original.to(dtype=kwargs.get("dtype") or original.dtype)
        return func(*args, **kwargs)

    def _note(self) -> None:
        if line := calling_line_of_user():
            self.lines.setdefault((line.file, line.number), line)

    def __enter__(self) -> Any:
        # Only what runs with gradients is meant to have a graph. torch.from_numpy asks no mode.
        if torch.is_grad_enabled():
            self._patch(torch.no_grad, "__enter__", lambda context: self._enter_no_grad(context))
            self._patch(torch, "from_numpy", lambda array: torch.as_tensor(array))
        return super().__enter__()  # type: ignore[no-untyped-call]

    def _enter_no_grad(self, context: Any) -> None:
        context.prev = torch.is_grad_enabled()
        self._note()

    def _patch(self, owner: Any, name: str, value: Any) -> None:
        self._kept.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def __exit__(self, *error: object) -> None:
        for owner, name, value in reversed(self._kept):
            setattr(owner, name, value)
        self._kept.clear()
        self._outside.clear()
        super().__exit__(*error)  # type: ignore[no-untyped-call]


class AttachedStep:
    """A step within which nothing cuts the graph."""

    def __init__(self, step: Callable[..., Any], mode: Attaching) -> None:
        self.step = self.__wrapped__ = step
        self.mode = mode

    def __call__(self, *args: Any) -> Any:
        """Take the step."""
        with once(self.mode):
            result = self.step(*args)
        return result.detach() if isinstance(result, Tensor) else result


_CUTTING = re.compile(r"\.detach\(\)|\.data\b|no_grad|\.tolist\(\)|\.numpy\(\)|\.item\(\)")


def lines_of_step(training: Training) -> list[str]:
    """Return the lines of the user's step that may cut the graph, but for what it returns.

    A step with several backward passes cuts on purpose, so that each reaches its own network.
    """
    source = source_of(training.step) or ""
    if source.count(".backward(") != 1:
        return []
    return [
        line.strip() for line in source.splitlines() if _CUTTING.search(line) and not line.strip().startswith("return")
    ]


def _has_graph(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def lines_that_detach(training: Training) -> list[SourceLine]:
    """Return the lines of the user's code that cut the graph in a forward pass of the model and the loss."""
    mode = Attaching()

    def run() -> None:
        *inputs, target = parts_of(drawn(training, 1)[0])
        with once(mode):
            output = training.model(*inputs)
            if training.step is None:
                training.loss_fn(output, target)

    try:
        undisturbed(training.model, run)
    except Exception:  # the model of the user's step may take other inputs; the step itself is not run
        return list(mode.lines.values())
    return list(mode.lines.values())
