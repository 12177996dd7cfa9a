"""Graph: reads activations, attention and producers off autograd's graph, while a forward pass builds it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

MAX_NODES = 20_000  # of one step: a walk through a longer graph ends there
MAX_PRODUCER_NODES = 64  # from an activation back to its module

# Of each activation: what its node saved, and the value up to which a unit passes nothing on.
RECTIFIED = {
    "ReluBackward0": ("_saved_result", 0.0),
    "ThresholdBackward0": ("_saved_self", 0.0),
    "HardtanhBackward0": ("_saved_self", 0.0),  # of ReLU6
    "ClampBackward1": ("_saved_self", 0.0),
    "GeluBackward0": ("_saved_self", -3.0),  # its slope is below 0.02 there
    "SiluBackward0": ("_saved_self", -6.0),  # likewise
}
SATURATING = {"TanhBackward0": "_saved_result", "SigmoidBackward0": "_saved_result"}
SOFTMAX = {"SoftmaxBackward0": "_saved_result", "SafeSoftmaxBackward0": "_saved_result"}
FUSED_ATTENTION = "ScaledDotProduct"
OPERATIONS = {
    "SqrtBackward0": "sqrt",
    "RsqrtBackward0": "sqrt",
    "NormBackward0": "sqrt",
    "LogBackward0": "log",
    "Log2Backward0": "log",
    "Log10Backward0": "log",
    "Log1PBackward0": "log",
    "DivBackward0": "division",
    "ReciprocalBackward0": "division",
    "StdBackward0": "division",
}


@dataclass(frozen=True)
class Activation:
    """An activation in the graph.

    Attributes:
        function: ``rectified``, ``tanh``, ``sigmoid``, ``softmax`` or ``attention``.
        module: Name of the module whose output it activates; empty if none is known.
        node: Its node.
        values: What the node saved: its result, or the input of a rectification.
        channels_first: True if units are the second dimension.
        floor: The value up to which a rectified unit passes nothing on.
    """

    function: str
    module: str
    node: Any
    values: Tensor
    channels_first: bool
    floor: float = 0.0


class GraphWalk:
    """Walks autograd's graph during one step, and visits every node once.

    Args:
        names: The names of the modules of parameters, by the id of the parameter.

    Attributes:
        kinds: Names of the nodes that were visited.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self.kinds: set[str] = set()
        self._visited: set[Any] = set()  # it keeps the nodes alive, so that they stay the same objects
        self._produced: dict[Any, str] = {}

    def add_output(self, node: Any, module: str) -> None:
        """Note that a module has produced a node. Walks from later nodes end there."""
        self._produced[node] = module
        self._visited.add(node)

    def activations(self, nodes: Iterable[Any]) -> Iterator[Activation]:
        """Yield the activations from nodes back to nodes that were visited."""
        waiting, visited, kinds = list(nodes), self._visited, self.kinds
        while waiting and len(visited) < MAX_NODES:
            node = waiting.pop()
            if node is None or node in visited:
                continue
            visited.add(node)
            name = node.name()
            kinds.add(name)
            form = _form(name)
            if form is not None:
                activation = self._activation(node, *form)
                if activation is not None:
                    yield activation
            waiting += [part for part, _ in node.next_functions]

    def _activation(self, node: Any, function: str, saved: str, floor: float) -> Activation | None:
        if function == "rectified" and not _rectifies(node):
            return None
        values = getattr(node, saved, None)
        if not isinstance(values, Tensor):
            return None
        module, channels_first = self._producer(node)
        return Activation(function, module, node, values, channels_first, floor)

    def _producer(self, node: Any) -> tuple[str, bool]:
        """Return the nearest module before a node, and True if it is a convolution."""
        waiting, seen, convolution = [part for part, _ in node.next_functions], set(), False
        for _ in range(MAX_PRODUCER_NODES):
            if not waiting:
                break
            part = waiting.pop(0)
            if part is None or part in seen:
                continue
            seen.add(part)
            convolution = convolution or part.name().startswith(("Convolution", "NativeBatchNorm", "CudnnBatchNorm"))
            module = self._produced.get(part)
            if module is None:
                variable = getattr(part, "variable", None)
                module = None if variable is None else self._names.get(id(variable))
            if module is not None:
                return module, convolution
            waiting.extend(deeper for deeper, _ in part.next_functions)
        return "", convolution


@cache
def _form(name: str) -> tuple[str, str, float] | None:
    """Return the function, what is saved, and the floor of an activation's node; None for other nodes."""
    if name in RECTIFIED:
        return ("rectified", *RECTIFIED[name])
    if name in SATURATING:
        return name.removesuffix("Backward0").lower(), SATURATING[name], 0.0
    if name in SOFTMAX:
        return "softmax", SOFTMAX[name], 0.0
    return ("attention", "_saved_query", 0.0) if name.startswith(FUSED_ATTENTION) else None


def _rectifies(node: Any) -> bool:
    """Return True unless a clamp leaves negative values as they are."""
    lower = getattr(node, "_saved_min", getattr(node, "_saved_min_val", 0.0))
    return isinstance(lower, (int, float)) and lower == 0


def grad_nodes(value: Any) -> list[Any]:
    """Return the nodes of the tensors in a value, which may be nested in sequences and mappings."""
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, Tensor):
        return [] if value.grad_fn is None else [value.grad_fn]
    return [tensor.grad_fn for tensor in tensors_in(value) if tensor.grad_fn is not None]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)


def operations_of(loss: Tensor) -> tuple[str, ...]:
    """Return the operations in the graph of a loss that may give values that are not finite."""
    waiting: list[Any] = [loss.grad_fn]
    visited: set[Any] = set()
    operations: set[str] = set()
    while waiting and len(visited) < MAX_NODES:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        operation = operation_of(node.name())
        if operation is not None:
            operations.add(operation)
        elif node.name().startswith("Pow") and _is_root(node):
            operations.add("sqrt")
        waiting.extend(part for part, _ in node.next_functions)
    return tuple(sorted(operations))


def operation_of(name: str) -> str | None:
    """Return the operation of a node that may give values that are not finite; None for others.

    Example:
        >>> operation_of("Log1PBackward0")
        'log'
    """
    if name.startswith(("LinalgVectorNorm", "Cdist", "EuclideanDist")):
        return "sqrt"
    return OPERATIONS.get(name)


def _is_root(node: Any) -> bool:
    try:
        exponent = node._saved_exponent
    except (AttributeError, RuntimeError):  # freed by the backward pass
        return False
    return isinstance(exponent, (int, float)) and exponent < 1


def saves_tensors_plainly() -> bool:
    """Return True if autograd keeps what it saves. A checkpoint would compute it anew if it were read."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None
