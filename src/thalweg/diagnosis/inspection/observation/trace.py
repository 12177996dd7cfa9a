"""Trace: the calls of torch's functions in one step, where each tensor comes from, and which module made it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode

# Functions whose result has the same entries as their first argument, in another shape or type.
SHAPE_FUNCTIONS = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "swapaxes",
        "movedim",
        "contiguous",
        "float",
        "double",
        "half",
        "bfloat16",
        "to",
        "type",
        "type_as",
        "clone",
        "__getitem__",
        "T",
        "mT",
        "expand",
        "expand_as",
        "unflatten",
        "squeeze_",
        "unsqueeze_",
        "chunk",
        "split",
        "unbind",
        "select",
        "narrow",
        "index_select",
        "cpu",
        "cuda",
        "view_as",
        "reshape_as",
        "cat",
        "stack",
        "identity",
        "atleast_1d",
        "atleast_2d",
    ]
)
# Functions whose derivative is infinite at 0.
ROOTS = frozenset(["sqrt", "norm", "std", "vector_norm", "linalg_vector_norm", "cdist", "pow", "__pow__", "rsqrt"])
RELUS = frozenset({"relu", "relu_", "relu6", "threshold", "threshold_"})
SIGMOIDS = frozenset({"tanh", "tanh_", "sigmoid", "sigmoid_"})
MIN_PLACES, MAX_SCORES = 4, 2**24  # of attention that is looked at
_UNTRACED = frozenset({"backward", "size", "dim", "numel", "is_floating_point", "register_hook", "requires_grad_"})


@dataclass(eq=False)
class Call:
    """A call of a function of torch.

    Attributes:
        name: The name of the function.
        module: The name of the innermost module that made the call; empty for the model itself, None outside of it.
        tensors: Its tensor arguments.
        parents: The calls that made them; None where no call did.
        arguments: Its other arguments, by position and by name.
        outputs: The tensors that it returned.
        place: Its number in the step.
        numbers: Statistics of its result, taken at once, since later calls may overwrite it.
    """

    name: str
    module: str | None
    tensors: Sequence[Tensor]
    parents: Sequence["Call | None"]
    arguments: dict[str | int, Any]
    outputs: Sequence[Tensor]
    place: int
    numbers: dict[str, float] = field(default_factory=dict)

    def argument(self, name: str, position: int, default: Any = None) -> Any:
        """Return an argument that is no tensor, by its name or position."""
        return self.arguments.get(name, self.arguments.get(position, default))


@dataclass(eq=False)
class ModuleCall:
    """A call of a module.

    Attributes:
        name: The name of the module; empty for the model itself.
        module: The module.
        inputs: Its tensor inputs.
        outputs: Its tensor outputs.
        output_calls: The calls that made them.
        place: The number of function calls before its end.
        is_training: True if it was in training mode.
        rms_input: The root mean square of its first input.
        rms_output: That of its first output, before anything changes it in place.
    """

    name: str
    module: nn.Module
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    output_calls: Sequence[Call | None]
    place: int
    is_training: bool
    rms_input: float
    rms_output: float


class Trace(TorchFunctionMode):
    """Records the calls of functions and modules in a ``with`` block.

    Args:
        model: The model, whose modules have names.
        names: Names of further modules, by their id.

    Attributes:
        is_paused: True while calls are not recorded.
        calls: The calls of functions, in order.
        module_calls: The calls of modules, in the order in which they end.
    """

    def __init__(self, model: nn.Module, names: dict[int, str]) -> None:
        super().__init__()
        self._names = {**names, **{id(module): name for name, module in model.named_modules()}}
        self._stack: list[str] = []
        self._makers: dict[int, Call] = {}
        self._alive: list[Tensor] = []  # an id is only unique among living tensors
        self._hooks = ExitStack()
        self.is_paused = False
        self.calls: list[Call] = []
        self.module_calls: list[ModuleCall] = []

    def __enter__(self) -> Self:
        before = torch_module.register_module_forward_pre_hook(self._begin_module)
        after = torch_module.register_module_forward_hook(self._end_module)
        self._hooks.callback(before.remove)
        self._hooks.callback(after.remove)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._hooks.close()

    def maker(self, tensor: Tensor) -> Call | None:
        """Return the call that made a tensor; None if none did."""
        return self._makers.get(id(tensor))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _name(func)
        if self.is_paused or name == "" or name in _UNTRACED:
            return func(*args, **kwargs)
        tensors = list(tensors_in((args, kwargs)))
        parents = [self._makers.get(id(tensor)) for tensor in tensors]
        result = func(*args, **kwargs)
        outputs = list(tensors_in(result))
        if not outputs and name not in ("numpy", "tolist", "item"):
            return result
        arguments = {key: value for key, value in (*enumerate(args), *kwargs.items()) if not isinstance(value, Tensor)}
        if name == "hardtanh" and (
            arguments.get("min_val", arguments.get(1)),
            arguments.get("max_val", arguments.get(2)),
        ) == (0.0, 6.0):
            name = "relu6"
        module = self._stack[-1] if self._stack else None
        call = Call(
            name, module, tensors, parents, arguments, outputs, len(self.calls), _numbers(name, tensors, outputs)
        )
        self.calls.append(call)
        self._alive += (*tensors, *outputs)
        for output in outputs:
            self._makers[id(output)] = call
        return result

    def _begin_module(self, module: nn.Module, inputs: Any) -> None:
        self._stack.append(self._names.get(id(module), self._stack[-1] if self._stack else ""))

    def _end_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._stack:
            self._stack.pop()
        name = self._names.get(id(module))
        if name is None:
            return
        outputs = list(tensors_in(output))
        inputs = list(tensors_in(inputs))
        self._alive += (*inputs, *outputs)
        makers = [self._makers.get(id(tensor)) for tensor in outputs]
        with self.paused():
            sizes = _rms(inputs), _rms(outputs)
        self.module_calls.append(
            ModuleCall(name, module, inputs, outputs, makers, len(self.calls), module.training, *sizes)
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the calls in a ``with`` block: they are not the user's."""
        was_paused, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = was_paused


def tensors_in(value: Any, depth: int = 4) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists, dictionaries and objects with fields, in order."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, (tuple, list)):
        for entry in value:
            yield from tensors_in(entry, depth - 1)
    elif depth and isinstance(value, dict):
        for entry in value.values():
            yield from tensors_in(entry, depth - 1)
    elif depth and hasattr(value, "__dataclass_fields__"):
        for entry in vars(value).values() if hasattr(value, "__dict__") else ():
            yield from tensors_in(entry, depth - 1)


def source(call: Call | None) -> Call | None:
    """Return the call that made the entries of a tensor, before any change of its shape or type.

    Args:
        call: The call that made the tensor.
    """
    while call is not None and call.name in SHAPE_FUNCTIONS:
        makers = {id(parent): parent for parent in call.parents}
        if len(makers) != 1 and call.name in ("cat", "stack"):
            return call
        call = call.parents[0] if call.parents else None
    return call


def ancestors(call: Call | None) -> Iterator[Call]:
    """Yield a call, and those that its arguments come from."""
    pending, visited = [call], set[int]()
    while pending:
        call = pending.pop()
        if call is not None and id(call) not in visited:
            visited.add(id(call))
            yield call
            pending += call.parents


def _name(func: Any) -> str:
    """Return the name of a function; that of the attribute for an access to one, empty if it makes no tensor."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        return attribute if attribute in ("data", "T", "mT") else ""
    return "" if name in ("__set__", "__delete__") else name.removeprefix("special_")


def _numbers(name: str, tensors: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, float]:
    """Return what is finite, before and after a call."""
    numbers = {
        "finite_inputs": float(all(map(_is_finite, tensors))),
        "finite_outputs": float(all(map(_is_finite, outputs))),
    }
    numbers["nan_inputs"] = 0.0 if numbers["finite_inputs"] else float(any(map(_has_nan, tensors)))
    numbers["nan_outputs"] = 0.0 if numbers["finite_outputs"] else float(any(map(_has_nan, outputs)))
    values = outputs[0].detach() if outputs else None
    if values is None or not values.numel() or not values.is_floating_point():
        return numbers
    if name in ROOTS:
        numbers["smallest_output"] = float(values.min())
    elif name in RELUS and values.ndim >= 2 and numbers["finite_outputs"]:
        numbers["dead_last"] = _inactive_share(values, values.ndim - 1)
        numbers["dead_channels"] = _inactive_share(values, 1)
    elif name in SIGMOIDS:
        distance = 1 - values.abs() if name.startswith("tanh") else torch.minimum(values, 1 - values)
        numbers["saturated"] = float((distance < 0.01).double().mean())
    elif name == "softmax" and values.ndim >= 3 and values.shape[-1] >= MIN_PLACES:
        numbers["peak"] = float(values.max(-1).values.mean())
    elif name == "scaled_dot_product_attention":
        numbers["peak"] = _peak_of_attention(tensors[0].detach(), tensors[1].detach())
    return numbers


def _peak_of_attention(query: Tensor, key: Tensor) -> float:
    if key.shape[-2] < MIN_PLACES or query.shape[-2] * key.shape[-2] > MAX_SCORES or query.ndim != key.ndim:
        return 0.0
    if query.shape[:-2] != key.shape[:-2]:
        return 0.0
    scores = (query.float() @ key.float().transpose(-1, -2)) / query.shape[-1] ** 0.5
    return float(scores.softmax(-1).max(-1).values.mean())


def _inactive_share(values: Tensor, dim: int) -> float:
    """Return the share of the units, which lie along a dimension, that are active nowhere."""
    axes = [place for place in range(values.ndim) if place != dim]
    return float((values <= 0).all(axes[0] if len(axes) == 1 else tuple(axes)).double().mean())


def _rms(tensors: Sequence[Tensor]) -> float:
    if not tensors or not tensors[0].is_floating_point() or not tensors[0].numel():
        return 0.0
    return float(tensors[0].detach().double().square().mean().sqrt())


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.detach().isfinite().all())


def _has_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.detach().isnan().any())
