"""Changes of gradients and weights around the step of an optimizer: clipping, and clipping taken away."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad

from thalweg.diagnosis.changes.parts.change import Change
from thalweg.diagnosis.changes.parts.optimizers import around_step, groups_of, optimizers_of, reachable
from thalweg.diagnosis.changes.parts.source import (
    calls_of,
    named_step,
    names_in,
    source_of,
    with_argument,
)
from thalweg.engine.eager.loop import run_in_lockstep
from thalweg.rules import SGD
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import resolve_reductions
from thalweg.rules.wrappers.clip_adaptive import ClipAdaptive
from thalweg.tasks.training import Training


def params_of(optimizer: Any) -> list[Tensor]:
    """Return the parameters of an optimizer that have a gradient."""
    return [param for group in optimizer.param_groups for param in group["params"] if param.grad is not None]


@dataclass(frozen=True, kw_only=True)
class ClipGradients(Change):
    """Gradients clipped before each step, by their norm over the model or by value.

    Attributes:
        limit: The largest norm, or the largest size of an element.
        by_value: True to clip each element.
    """

    limit: float = 1.0
    by_value: bool = False

    def alter(self, training: Training, where: str | None) -> None:
        def clip(owner: Any) -> None:
            function = nn.utils.clip_grad_value_ if self.by_value else nn.utils.clip_grad_norm_
            function(params_of(owner), self.limit)

        for optimizer in optimizers_of(training):
            around_step(optimizer, before=clip)

    def lines(self, training: Training, where: str | None) -> str:
        clip = "clip_grad_value_" if self.by_value else "clip_grad_norm_"
        return (
            "import torch\n\n\n"
            "def clip(*_):  # or this call before optimizer.step()\n"
            f"    torch.nn.utils.{clip}(model.parameters(), {self.limit:g})\n\n\n"
            "optimizer.register_step_pre_hook(clip)"
        )


def clip_adaptively(params: list[Tensor], rule: ClipAdaptive) -> None:
    """Clip the gradient of each unit to a share of the norm of the unit, as the rule says."""
    coefficients = record(**rule.own_coefficients(1))
    with torch.no_grad():
        for param in params:
            assert param.grad is not None
            request = resolve_reductions(rule.gradient(param, param.grad, None, coefficients))
            ((clipped, _),) = run_in_lockstep([request])
            param.grad.copy_(clipped)


@dataclass(frozen=True, kw_only=True)
class ClipAdaptively(Change):
    """The gradient of each unit clipped to a share of the norm of the unit."""

    clipping: float = 1e-2

    def alter(self, training: Training, where: str | None) -> None:
        rule = ClipAdaptive(SGD(lr=1.0), clipping=self.clipping)
        for optimizer in optimizers_of(training):
            around_step(optimizer, before=lambda owner: clip_adaptively(params_of(owner), rule))

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "import torch\n\n\n"
            "def clip_adaptively(optimizer, args, kwargs):\n"
            '    for param in (param for group in optimizer.param_groups for param in group["params"]):\n'
            "        if param.grad is not None:\n"
            "            dims = tuple(range(1, param.dim())) or None  # of a row or a filter\n"
            "            norm = torch.linalg.vector_norm(param.grad, dim=dims, keepdim=True).clamp_min(1e-30)\n"
            "            largest = torch.linalg.vector_norm(param.detach(), dim=dims, keepdim=True).clamp_min(1e-3)\n"
            f"            param.grad.mul_(({self.clipping:g} * largest / norm).clamp_max(1.0))\n\n\n"
            "optimizer.register_step_pre_hook(clip_adaptively)"
        )


@dataclass(frozen=True, kw_only=True)
class ClipWeights(Change):
    """Parameters clipped after each step."""

    largest: float = 1.0

    def alter(self, training: Training, where: str | None) -> None:
        def clamp(owner: Any) -> None:
            with torch.no_grad():
                for group in owner.param_groups:
                    for param in group["params"]:
                        param.clamp_(-self.largest, self.largest)

        for optimizer in optimizers_of(training):
            around_step(optimizer, after=clamp)

    def lines(self, training: Training, where: str | None) -> str:
        return (
            "def clip_weights(optimizer, args, kwargs):\n"
            '    for param in (param for group in optimizer.param_groups for param in group["params"]):\n'
            f"        param.data.clamp_(-{self.largest:g}, {self.largest:g})\n\n\n"
            "optimizer.register_step_post_hook(clip_weights)"
        )


_NORM = ("clip_grad_norm_", "clip_grad_norm")
_VALUE = ("clip_grad_value_",)
_OWN = frozenset(("mul_", "div_", "clamp_", "clamp", "copy_", "norm", "renorm", "renorm_"))
# Settings of thalweg's wrappers that clip.
_SETTINGS = ("max_norm", "max_tensor_norm", "max_value", "clipping")
_UNLIMITED = 1e30


def _functions_of(step: Any) -> Iterator[FunctionType]:
    """Yield the functions that a step may call; those of torch only where the user's code names them."""
    visited: set[int] = set()
    waiting = [step]
    while waiting:
        for function in reachable([waiting.pop()], FunctionType):
            if id(function) not in visited:
                visited.add(id(function))
                yield function
                waiting += _referred(function) if not (function.__module__ or "").startswith("torch") else []


def _referred(function: FunctionType) -> list[Any]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_full(cell)]
    names = [function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__]
    return [value for value in cells + names if callable(value) or isinstance(value, list | dict | tuple)]


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class LooserClipping(Change):
    """The clipping of the user's own step, or of a wrapper of the optimizer, at a wider limit or none.

    Attributes:
        limit: The new limit; None for none.
    """

    limit: float | None = None

    def why_not(self, training: Training, where: str | None) -> str:
        return "" if self._how(training) else "nothing clips"

    def _how(self, training: Training) -> str:
        """Return ``setting``, ``torch`` or ``own``: what clips; empty if nothing is seen to."""
        if any(name in group for group in groups_of(training) for name in _SETTINGS):
            return "setting"
        if training.step is None:
            return ""
        names: set[str] = set()
        for function in _functions_of(training.step):
            is_torchs = (function.__module__ or "").startswith("torch")
            names |= {function.__name__} if is_torchs else names_in(function)
        if names.intersection((*_NORM, *_VALUE)):
            return "torch"
        scaled = (
            "GradScaler" in names
            or "unscale_" in names
            or any(True for _ in reachable([training.step], torch.amp.GradScaler))
        )
        return "own" if self.limit is None and "grad" in names and names & _OWN and not scaled else ""

    def alter(self, training: Training, where: str | None) -> None:
        how = self._how(training)
        if how == "setting":
            for group in groups_of(training):
                for name in _SETTINGS:
                    if name in group:
                        group[name] = self.limit or _UNLIMITED
        elif how == "torch":
            assert training.step is not None
            training.step = _StepWithLimit(training.step, self.limit)
        else:
            _step_on_raw_gradients(training)

    def lines(self, training: Training, where: str | None) -> str:
        how, value = self._how(training), "float('inf')" if self.limit is None else f"{self.limit:g}"
        if how == "setting":
            name = next(name for group in groups_of(training) for name in _SETTINGS if name in group)
            limit = self.limit or _UNLIMITED
            return f'for group in optimizer.param_groups:\n    group["{name}"] = {limit:g}'
        source = source_of(training.step)
        if source is not None and calls_of(source, (*_NORM, *_VALUE)):
            return named_step(with_argument(source, (*_NORM, *_VALUE), 1, ("max_norm", "clip_value"), value))
        return _RAW_GRADIENTS


_RAW_GRADIENTS = """# Or take the lines that clip out of the step.
raw = {}
for param in model.parameters():
    if param.requires_grad:
        param.register_post_accumulate_grad_hook(lambda param: raw.update({param: param.grad.clone()}))


def unclip(optimizer, args, kwargs):
    for group in optimizer.param_groups:
        for param in group["params"]:
            if param in raw and param.grad is not None:
                param.grad.copy_(raw[param])


optimizer.register_step_pre_hook(unclip)"""


def _step_on_raw_gradients(training: Training) -> None:
    """Let optimizers step on the gradients that the backward pass left."""
    raw: dict[Tensor, Tensor] = {}

    def keep(param: Tensor) -> None:
        assert param.grad is not None
        raw[param] = param.grad.clone()

    def restore(owner: Any) -> None:
        for param in params_of(owner):
            if param in raw:
                assert param.grad is not None
                param.grad.copy_(raw[param])

    for group in groups_of(training):
        for param in group["params"]:
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(keep)
    for optimizer in optimizers_of(training):
        around_step(optimizer, before=restore)


class _StepWithLimit:
    """A step during which torch's functions that clip have another limit, by whatever name the step calls them."""

    def __init__(self, step: Callable[..., Any], limit: float | None) -> None:
        self.step = self.__wrapped__ = step
        value = float("inf") if limit is None else limit
        self._limited = {
            id(clip): _with_limit(clip, value) for clip in (getattr(clip_grad, name) for name in (*_NORM, *_VALUE))
        }
        self._scopes = [vars(nn.utils), vars(clip_grad), *(function.__globals__ for function in _functions_of(step))]

    def __call__(self, *args: Any) -> Any:
        kept: list[tuple[dict[str, Any], str, Any]] = []
        for scope in {id(scope): scope for scope in self._scopes}.values():
            for name, value in list(scope.items()):
                if id(value) in self._limited:
                    kept.append((scope, name, value))
                    scope[name] = self._limited[id(value)]
        try:
            return self.step(*args)
        finally:
            for scope, name, value in kept:
                scope[name] = value


def _with_limit(clip: Callable[..., Any], limit: float) -> Callable[..., Any]:
    def clip_with_limit(parameters: Any, max_norm: Any = None, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("clip_value", None)
        return clip(parameters, limit, *args, **kwargs)

    return clip_with_limit
