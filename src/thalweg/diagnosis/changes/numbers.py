"""Changes of the numbers: their format, values that are not finite, and functions that make them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from thalweg.diagnosis.changes.parts.batches import derived_batches, drawn, parts_of, rows_of, selected
from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.functions import Replacement, SourceLine, is_float, replace_functions
from thalweg.diagnosis.changes.parts.guards import ADVICE, GUARDS, guarded_text, lines_of
from thalweg.diagnosis.changes.parts.output import uses_loss_fn
from thalweg.diagnosis.changes.parts.source import named_step, source_of
from thalweg.tasks.training import Training

_HALVES = (torch.float16, torch.bfloat16)
_LARGE = 1e4  # within float16, and far beyond any logit


def has_halves(training: Training) -> bool:
    """Return whether the model has numbers of 16 bits."""
    tensors = [*training.model.parameters(), *training.model.buffers()]
    return any(tensor.dtype in _HALVES for tensor in tensors)


def _to_float(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in _HALVES else leaf, value)


@contextmanager
def _without_halves() -> Iterator[None]:
    """Leave modules in float32 that are put into half precision, and switch autocast off."""
    original = nn.Module.to

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        args = tuple(torch.float32 if value in _HALVES else value for value in args if not isinstance(value, Tensor))
        if kwargs.get("dtype") in _HALVES:
            kwargs["dtype"] = torch.float32
        return original(self, *args, **kwargs)

    with ExitStack() as stack:
        for name in ("half", "bfloat16"):
            stack.enter_context(mock.patch.object(nn.Module, name, lambda self: self))
        stack.enter_context(mock.patch.object(nn.Module, "to", to))
        yield


class _NoAutocast:
    """A step without autocast."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step = self.__wrapped__ = step

    def __call__(self, *args: Any) -> Any:
        enter = torch.autocast.__enter__

        def disabled(context: Any) -> Any:
            context._enabled = False
            return enter(context)  # type: ignore[no-untyped-call]

        with mock.patch.object(torch.autocast, "__enter__", disabled):
            return self.step(*args)


@dataclass(frozen=True, kw_only=True)
class Float32(Change):
    """Weights, inputs and arithmetic in float32 instead of half precision."""

    def why_not(self, training: Training, where: str | None) -> str:
        if has_halves(training) or training.step is not None or _has_half_data(training):
            return ""
        return "nothing is in half precision"

    def making(self) -> AbstractContextManager[object]:
        return _without_halves()

    def alter(self, training: Training, where: str | None) -> None:
        training.model.float()
        casts: dict[str, Replacement] = {
            "half": lambda function, args, kwargs: args[0].float(),
            "bfloat16": lambda function, args, kwargs: args[0].float(),
            "to": lambda function, args, kwargs: function(*_to_single(args), **_to_single(kwargs)),
            "type": lambda function, args, kwargs: function(*_to_single(args), **_to_single(kwargs)),
        }
        training.model.register_forward_pre_hook(
            lambda module, args, kwargs: (_to_float(args), _to_float(kwargs)), with_kwargs=True, prepend=True
        )
        training.batches = derived_batches(training.batches, lambda batches: map(_to_float, batches))
        replace_functions(training, casts, None)
        if training.step is not None:
            training.step = _NoAutocast(training.step)

    def lines(self, training: Training, where: str | None) -> str:
        lines = ["# Leave out .half(), .bfloat16() and autocast.", "model.float()"]
        if _has_half_data(training) or has_halves(training):
            lines.append(
                "batches = (\n"
                "    tuple(part.float() if part.is_floating_point() else part for part in batch)\n"
                "    for batch in batches\n)"
            )
            lines.append(
                "model.register_forward_pre_hook(\n"
                "    lambda module, args: tuple(arg.float() if arg.is_floating_point() else arg for arg in args)\n)"
            )
        return "\n".join(lines)


def _has_half_data(training: Training) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.dtype in _HALVES for leaf in tree_leaves(drawn(training, 1)))


def _to_single(arguments: Any) -> Any:
    if isinstance(arguments, Mapping):
        return {name: torch.float32 if value in _HALVES else value for name, value in arguments.items()}
    return tuple(torch.float32 if isinstance(value, torch.dtype) and value in _HALVES else value for value in arguments)


@dataclass(frozen=True, kw_only=True)
class FiniteConstants(Change):
    """Buffers that overflowed, such as the constant of a mask, hold a large number of the format."""

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._names(training) else "no buffer has overflowed"

    def _names(self, training: Training) -> list[str]:
        return [
            name for name, buffer in training.model.named_buffers() if is_float(buffer) and bool(buffer.isinf().any())
        ]

    def alter(self, training: Training, where: str | None) -> None:
        for buffer in training.model.buffers():
            if is_float(buffer):
                torch.nan_to_num_(buffer, nan=float("nan"), posinf=_LARGE, neginf=-_LARGE)

    def lines(self, training: Training, where: str | None) -> str:
        lines = [
            f'model.get_buffer("{name}").nan_to_num_(nan=float("nan"), posinf={_LARGE:g}, neginf=-{_LARGE:g})'
            for name in self._names(training)
        ]
        return "\n".join(["# Where the constants are made, write 1e4: it is within the range of float16.", *lines])


def _is_finite(leaf: Any) -> bool:
    return not is_float(leaf) or bool(leaf.isfinite().all())


@dataclass(frozen=True, kw_only=True)
class DropNonFinite(Change):
    """Examples that are not finite are left out."""

    LOOKED_AT = 64  # batches

    def why_not(self, training: Training, where: str | None) -> str:
        batches = drawn(training, self.LOOKED_AT)
        if all(_is_finite(leaf) for leaf in tree_leaves(batches)):
            return f"all values of the first {len(batches)} batches are finite"
        return "" if rows_of(batches[0]) else "the parts of a batch have no common first dimension"

    def alter(self, training: Training, where: str | None) -> None:
        training.batches = derived_batches(training.batches, _finite_examples)

    def lines(self, training: Training, where: str | None) -> str:
        return _FINITE_EXAMPLES


def _finite_examples(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        finite = torch.ones(rows_of(batch), dtype=torch.bool)
        for leaf in tree_leaves(batch):
            if is_float(leaf):
                finite = finite.to(leaf.device) & leaf.isfinite().reshape(len(leaf), -1).all(1)
        if bool(finite.any()):
            yield batch if bool(finite.all()) else selected(batch, finite)


_FINITE_EXAMPLES = """def finite_examples(batches):
    for batch in batches:
        finite = [part.isfinite().reshape(len(part), -1).all(1) for part in batch if part.is_floating_point()]
        rows = finite[0]
        for others in finite[1:]:
            rows = rows & others
        if rows.any():
            yield tuple(part[rows] for part in batch)


batches = finite_examples(batches)"""


@dataclass(frozen=True, kw_only=True)
class FillNonFinite(Change):
    """Values of the inputs that are not finite are replaced by 0, in training and in evaluation."""

    def why_not(self, training: Training, where: str | None) -> str:
        batches = drawn(training, DropNonFinite.LOOKED_AT)
        inputs = [leaf for batch in batches for leaf in tree_leaves(parts_of(batch)[:-1])]
        return f"all inputs of the first {len(batches)} batches are finite" if all(map(_is_finite, inputs)) else ""

    def alter(self, training: Training, where: str | None) -> None:
        def fill(value: Any) -> Any:
            return tree_map(lambda leaf: leaf.nan_to_num(0.0, 0.0, 0.0) if is_float(leaf) else leaf, value)

        training.model.register_forward_pre_hook(lambda module, args: fill(args), prepend=True)
        training.batches = derived_batches(
            training.batches, lambda batches: ((*fill(parts_of(batch)[:-1]), parts_of(batch)[-1]) for batch in batches)
        )

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "def fill(values):\n"
            "    return tuple(x.nan_to_num(0.0, 0.0, 0.0) if x.is_floating_point() else x for x in values)\n\n\n"
            "model.register_forward_pre_hook(lambda module, args: fill(args))\n"
            "batches = ((*fill(inputs), target) for *inputs, target in batches)"
        )


@dataclass(frozen=True, kw_only=True)
class Guard(Change):
    """Functions that are not finite at 0 get no argument that is too near to it.

    Attributes:
        guards: A name of ``GUARDS``: which functions.
    """

    guards: str

    def why_not(self, training: Training, where: str | None) -> str:
        if training.step is not None or lines_of(training, self.guards):  # a step may have a loss of its own
            return ""
        return "no such function is called in the first step"

    def alter(self, training: Training, where: str | None) -> None:
        replace_functions(training, GUARDS[self.guards], None)

    def lines(self, training: Training, where: str | None) -> str:
        lines = lines_of(training, self.guards)
        mended = _mended_function(training, lines, self.guards)
        return mended or "\n".join(_as_comment(line, self.guards) for line in lines) or f"# {ADVICE[self.guards]}"


def _as_comment(line: SourceLine, guards: str) -> str:
    return f"# {line.file}:{line.number}\n# was: {line.text}\n# now: {guarded_text(line.text, guards)}"


def _mended_function(training: Training, lines: list[SourceLine], guards: str) -> str:
    """Return the text of the loss or the step with its lines mended; empty if the lines are elsewhere."""
    for name, function in (("loss_fn", training.loss_fn), ("step", training.step)):
        source = source_of(function)
        if source is None or not all(line.text in source for line in lines):
            continue
        texts = [line.text for line in lines] or [text.strip() for text in source.splitlines()[1:]]
        mended = source
        for text in texts:
            new = guarded_text(text, guards)
            mended = mended.replace(text, new if lines or "#" not in new else text)
        if mended != source:
            return named_step(mended) if name == "step" else _named(mended, name)
    return ""


def _named(source: str, name: str) -> str:
    own = source.partition("(")[0].removeprefix("def ").strip()
    return source if own == name else f"{source}\n\n\n{name} = {own}"


@dataclass(frozen=True, kw_only=True)
class ScaleLoss(Change):
    """The loss times a factor, so that gradients are far from what the optimizer or the format cannot resolve."""

    factor: float

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if uses_loss_fn(training) else "the step does not use loss_fn"

    def alter(self, training: Training, where: str | None) -> None:
        loss_fn = training.loss_fn
        training.loss_fn = lambda output, target: self.factor * loss_fn(output, target)

    def lines(self, training: Training, where: str | None) -> str:
        return (
            f"small_loss_fn = loss_fn\nloss_fn = lambda output, target: {self.factor:g} * small_loss_fn(output, target)"
        )
