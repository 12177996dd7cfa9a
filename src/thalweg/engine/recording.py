"""Recording: a program run once on tensors without data, written down operation by operation.

What is written is a straight line: the switches of the rule have been taken, and its numbers are inputs.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.engine.program import Program

# A dimension of size 1 would pass for a number, so recorded tensors have two elements.
_SHAPE = torch.Size([2])


class Value(NamedTuple):
    """An input or a result: its place in the recording, its dtype, and whether it is one number for all elements."""

    place: int
    dtype: torch.dtype
    uniform: bool


class Operation(NamedTuple):
    """One call of an operator on values and plain numbers."""

    operator: str
    args: tuple[Any, ...]
    result: Value
    computed_in: torch.dtype  # of a comparison: what is compared, while the result is a truth value


class Recording(NamedTuple):
    """A program, written down: `outputs` are the new parameter and state."""

    param: Value
    grad: Value
    state: dict[str, Value]
    coefficients: dict[str, Value]
    element: Value | None
    operations: list[Operation]
    outputs: list[Value]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.values: dict[int, Value] = {}
        self.alive: list[Tensor] = []  # an id is only unique among the living

    def value(self, tensor: Tensor) -> Value:
        if id(tensor) not in self.values:
            self.values[id(tensor)] = Value(len(self.values), tensor.dtype, tensor.dim() == 0)
            self.alive.append(tensor)
        return self.values[id(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        computed_in = torch.result_type(*tensors[-2:]) if len(tensors) > 1 else tensors[0].dtype
        # A dtype argument is told by the dtype of the result; where other keywords matter, they end the recording.
        plain = {key: value for key, value in kwargs.items() if key != "dtype" and value is not None}
        name = str(func) if not plain else f"{func} with {plain}"
        known = tuple(self.value(arg) if isinstance(arg, Tensor) else arg for arg in args)
        self.operations.append(Operation(name, known, self.value(result), computed_in))
        return result


def record(program: Program, dtype: torch.dtype) -> Recording:
    """Write down an elementwise program for parameters of this dtype."""
    recorder = _Recorder()

    def made(dtype: torch.dtype, shape: torch.Size = _SHAPE) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    param, grad = made(dtype), made(dtype)
    layout = program.layout(_SHAPE)
    # Their dtypes are those of a state made for a real parameter.
    example = program.init(torch.zeros(_SHAPE, dtype=dtype))
    state = type(example)(*(made(leaf.dtype) for leaf in example))
    row = program.coefficients(1)
    c = type(row)(*(made(torch.float64, torch.Size([])) for _ in row))
    index = made(torch.int64) if program.needs_index else None
    inputs = [recorder.value(tensor) for tensor in (param, grad, *state, *c)]
    index_value = None if index is None else recorder.value(index)
    with recorder, torch.no_grad():
        asking = program.update(param, grad, state, c, index)
        try:
            request = next(asking)
        except StopIteration as stop:
            new_param, new_state = stop.value
        else:
            raise AssertionError(f"an elementwise rule asks for no reduction, got {request!r:.80}")
    outputs = [recorder.value(tensor) for tensor in (new_param, *new_state)]
    assert outputs[0].dtype == dtype, "a step keeps the dtype of the parameter"
    assert [one.dtype for one in outputs[1:]] == [leaf.dtype for leaf in state], "a step keeps the dtypes of the state"
    num_state = len(layout)
    return Recording(
        param=inputs[0],
        grad=inputs[1],
        state=dict(zip(layout, inputs[2 : 2 + num_state], strict=True)),
        coefficients=dict(zip(row._fields, inputs[2 + num_state :], strict=True)),
        element=index_value,
        operations=recorder.operations,
        outputs=outputs,
    )
