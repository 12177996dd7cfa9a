"""Trace: one step in slow motion, to find the operation that made the first value that is not finite."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.diagnosis.clue import Certainty, Clue
from thalweg.diagnosis.monitoring.probes.graph import tensors_in
from thalweg.diagnosis.monitoring.probes.targets import Parts

# Operations by the kind of fault, by parts of the names of aten's operations and of autograd's nodes.
ROOTS = ("sqrt", "norm", "cdist", "hypot", "euclidean")
LOGARITHMS = ("log", "xlogy", "entr")
QUOTIENTS = ("div", "reciprocal", "std", "var", "fmod", "remainder", "mean")
CONSTANTS = ("fill", "full", "scalar_tensor", "where", "lift_fresh", "constant_pad", "empty", "copy")
_OWN = (__file__, torch.__file__.rpartition("/")[0])


@dataclass(frozen=True)
class Origin:
    """Where a value that is not finite came from.

    Attributes:
        kind: The kind of cause, a name of ``KINDS``; empty if the operation only overflowed.
        source: ``input`` (it came with the batch), ``parameter``, ``buffer`` or ``operation``.
        operation: The operation that made it, as aten or autograd name it; empty if it came in.
        where: Name of the module, parameter or buffer; None if it was outside of the model.
        backward: True if it arose in the backward pass.
        line: The user's line, as ``file.py:12``; empty if there is none.
        dtype: The dtype of the value.
    """

    kind: str
    source: str
    operation: str
    where: str | None
    backward: bool
    line: str
    dtype: str

    def as_clue(self, since: int, certainty: Certainty = "certain") -> Clue | None:
        """Return the clue of this origin, since a step; None if it names no kind."""
        if not self.kind:
            return None
        parts = {"source": self.source, "operation": self.operation, "line": self.line, "dtype": self.dtype}
        evidence = {name: value for name, value in parts.items() if value}
        return Clue(self.kind, certainty, self.where, since, evidence)


class NonFiniteTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Checks the result of every operation inside of its ``with`` block. It is slow: meant for a single step.

    Values that an operation makes on purpose, as a mask of minus infinity, are followed until they disappear.

    Args:
        model: The model, for the names of modules, parameters and buffers.

    Attributes:
        origin: Where the first harmful value came from; None if all values were finite.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> with NonFiniteTrace(model) as trace:
        ...     loss = (model(torch.zeros(1, 2)) - model.bias).abs().sqrt().sum()
        ...     loss.backward()
        >>> trace.origin.kind, trace.origin.backward
        ('nan_from_sqrt', True)
    """

    def __init__(self, model: nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.origin: Origin | None = None
        self._parts = Parts(model)
        self._origins: dict[int, Origin] = {}  # by address of the storage
        self._kept: list[Tensor] = []  # so that no address is used again
        self._modules: list[str] = []  # that run, the innermost last
        self._loss_origin: Origin | None = None
        self._scalar: Origin | None = None  # of the last scalar of the forward pass: at its end that is the loss
        self._had_backward = False
        self._created: list[Origin] = []
        self._names: dict[int, tuple[str, str]] = {}
        self._watched: list[Tensor] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for name, module, _ in self._parts.modules():
            self._stack.callback(module.register_forward_pre_hook(self._entered(name)).remove)
            self._stack.callback(module.register_forward_hook(self._left, always_call=True).remove)
            for part, buffer in module._buffers.items():
                if buffer is not None:
                    self._names[buffer.untyped_storage().data_ptr()] = ("buffer", f"{name}.{part}".lstrip("."))
        for name, _, _, param in self._parts.parameters():
            if not nn.parameter.is_lazy(param):
                self._names[param.untyped_storage().data_ptr()] = ("parameter", name)
                self._watched.append(param)
        self._stack.enter_context(_forward_lines())
        super().__enter__()  # type: ignore[no-untyped-call]  # of torch
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]  # of torch
        self._stack.close()
        if not self._had_backward:
            self._loss_origin = self._scalar
        harmful = [] if self._loss_origin is None else [self._loss_origin]
        ends = [tensor for param in self._watched for tensor in (param.grad, param) if tensor is not None]
        harmful += [self._origin_of(tensor) for tensor in ends if not _is_finite(tensor)]
        order = {id(origin): place for place, origin in enumerate(self._created)}
        self.origin = min(harmful, key=lambda origin: order[id(origin)], default=None)
        self._kept, self._origins = [], {}

    def _entered(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._modules.append(name)

        return enter

    def _left(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._modules:
            self._modules.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and follow values that are not finite."""
        kwargs = kwargs or {}
        is_backward = torch._C._current_autograd_node() is not None
        if is_backward:
            self._had_backward = True
            self._loss_origin = self._loss_origin or self._scalar
        before = [tensor for tensor in (*tensors_in(args), *tensors_in(kwargs)) if tensor.is_floating_point()]
        bad = [tensor for tensor in before if not _is_finite(tensor)]
        origins = [self._origin_of(tensor) for tensor in bad]  # before it runs: it may write in place
        result = func(*args, **kwargs)
        for tensor in tensors_in(args[:1] if result is None else result):  # lists are changed in place
            if not tensor.is_floating_point():
                continue
            is_loss = tensor.numel() == 1 and not is_backward and func.overloadpacket.__name__ != "ones_like"
            if _is_finite(tensor):
                self._origins.pop(_address(tensor), None)
                self._scalar = None if is_loss else self._scalar
                continue
            if origins:
                origin = origins[0]
            else:
                origin = self._new_origin(func, args, tensor)
                self._created.append(origin)
            self._origins[_address(tensor)] = origin
            self._kept.append(tensor)
            self._scalar = origin if is_loss else self._scalar
        return result

    def _origin_of(self, tensor: Tensor) -> Origin:
        known = self._origins.get(_address(tensor))
        if known is not None:
            return known
        source, name = self._names.get(_address(tensor), ("input", None))
        half = tensor.dtype == torch.float16
        # Data are in half precision because they were cast: a NaN was one before, an infinity was made by the cast.
        overflowed = half and (source != "input" or bool(tensor.isinf().any()))
        kind = "fp16_overflow" if overflowed else "nan_in_data" if source == "input" else ""
        origin = self._origins[_address(tensor)] = Origin(kind, source, "", name, False, "", _dtype(tensor))
        self._created.append(origin)
        self._kept.append(tensor)
        return origin

    def _new_origin(self, func: Any, args: Any, result: Tensor) -> Origin:
        node = torch._C._current_autograd_node()
        operation = node.name() if node is not None else func.overloadpacket.__name__
        is_constant = node is None and any(operation.startswith(part) or part in operation for part in CONSTANTS)
        where = self._modules[-1] if self._modules and node is None else None
        line = _line_of(node) if node is not None else _user_line()
        if is_constant and operation != "_to_copy" and not operation.startswith("copy"):
            return Origin("", "constant", operation, where or None, False, line, _dtype(result))
        kind = _kind_of(operation, result, args)
        return Origin(kind, "operation", operation, where or None, node is not None, line, _dtype(result))


def trace_nonfinite(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: Sequence[Any]) -> Origin | None:
    """Run one forward and backward pass in slow motion, and find where the first value that is not finite came from.

    The model ends as it was: its gradients, buffers and the random state are put back.

    Args:
        model: The model, as it was before the step.
        loss_fn: The loss of the output and the target.
        batch: Inputs and the target, as the step had them.

    Returns:
        The origin; None if all values were finite.

    Example:
        >>> batch = (torch.full((1, 2), torch.nan), None)
        >>> origin = trace_nonfinite(nn.Linear(2, 1), lambda output, _: output.sum(), batch)
        >>> origin.kind, origin.source
        ('nan_in_data', 'input')
    """
    *inputs, target = batch
    with _unchanged(model), torch.enable_grad(), NonFiniteTrace(model) as trace:
        loss = loss_fn(model(*inputs), target)
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]  # of torch
    return trace.origin


class TraceAt:
    """Traces a step of a loop, and the one before. It is used like a monitor: ``with``, and ``step`` after each step.

    A loss that is not finite may be due to a gradient of the step before.

    Args:
        model: The model.
        step: The step, from 0.

    Attributes:
        origin: Where the first harmful value of these steps came from; None if there was none, or they are not over.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> with TraceAt(model, 1) as trace:
        ...     for scale in (1.0, 0.0, 1.0):
        ...         model(torch.ones(1, 2)).mul(scale).abs().log().sum().backward()
        ...         trace.step(None)
        >>> trace.origin.operation
        'log'
    """

    def __init__(self, model: nn.Module, step: int) -> None:
        self.origin: Origin | None = None
        self._model, self._done, self._last = model, 0, step
        self._trace: NonFiniteTrace | None = None

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def step(self, loss: Any) -> None:
        """Note that a step is done."""
        self._done += 1
        if self._done > self._last:
            self._end()
        self._begin()

    def _begin(self) -> None:
        if self._trace is None and self._done in (self._last - 1, self._last):
            self._trace = NonFiniteTrace(self._model)
            self._trace.__enter__()

    def _end(self) -> None:
        if self._trace is not None:
            self._trace.__exit__(None, None, None)
            self.origin, self._trace = self._trace.origin, None


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    gradients = [(param, param.grad) for param in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for param, _ in gradients:
        param.grad = None
    devices = sorted({param.device.index or 0 for param, _ in gradients if param.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for param, gradient in gradients:
            param.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextmanager
def _forward_lines() -> Iterator[None]:
    """Make autograd's nodes remember the line that made them."""
    was_enabled, checked = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    torch.autograd.set_detect_anomaly(True, check_nan=False)
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(was_enabled, check_nan=checked)


def _is_finite(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or bool(torch.isfinite(tensor).all())


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _kind_of(operation: str, result: Tensor, args: Any) -> str:
    name = operation.lower()
    if result.dtype == torch.float16 and bool(result.isinf().any()) and not _divides_by_zero(args, name):
        return "fp16_overflow"
    if name.startswith("pow"):
        return "nan_from_sqrt" if _is_root(args) else "nan_from_division" if _is_negative(args) else ""
    for kind, parts in (
        ("nan_from_log", LOGARITHMS),
        ("nan_from_sqrt", ROOTS),
        ("nan_from_division", QUOTIENTS),
    ):
        if any(part in name for part in parts):
            return kind
    return ""


def _exponent(args: Any) -> Any:
    return args[1] if len(args) > 1 and isinstance(args[1], (int, float)) else None


def _is_root(args: Any) -> bool:
    exponent = _exponent(args)
    return exponent is None or exponent % 1 != 0


def _is_negative(args: Any) -> bool:
    exponent = _exponent(args)
    return exponent is not None and exponent < 0


def _divides_by_zero(args: Any, name: str) -> bool:
    divisor = (
        args[1]
        if "div" in name and len(args) > 1
        else args[0]
        if args and name in ("log", "reciprocal", "rsqrt")
        else None
    )
    return isinstance(divisor, Tensor) and bool((divisor == 0).any())


def _user_line() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith((*_OWN, "<")):
            return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _line_of(node: Any) -> str:
    """Return the line that made a node, from the traceback that it remembers."""
    for entry in reversed(node.metadata.get("traceback_", [])):
        first = entry.strip().splitlines()[0]
        file, _, rest = first.removeprefix('File "').partition('", line ')
        if rest and not file.startswith((*_OWN, "<")):
            return f"{file.rpartition('/')[2]}:{rest.partition(',')[0]}"
    return ""
