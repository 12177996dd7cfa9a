"""Recording: a program run once on tensors without data, written down operation by operation.

What is written is a straight line: the switches of the rule have been taken, and its numbers are inputs. Where the rule
asks for a reduction, the answer is written down as one more input, and what it was asked of.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.engine.core.program import Program
from thalweg.rules.core.reductions import Reduction

# Sizes of the dimensions of recorded tensors: none is 1, which would pass for a number, and no two are alike, so that
# what was reshaped or transposed does not pass for something that was not.
_SIZES = (2, 3, 5, 7, 11, 13)


class UnknownOperationError(Exception):
    """The recording has something that is not known to come out alike in C."""


class RecordedValue(NamedTuple):
    """An input or a result: its place in the recording, its dtype, and the dimensions along which it varies."""

    place: int
    dtype: torch.dtype
    varies: tuple[bool, ...]


class Operation(NamedTuple):
    """One call of an operator on values and plain numbers."""

    operator: str
    args: tuple[Any, ...]
    result: RecordedValue
    computed_in: torch.dtype  # of a comparison: what is compared, while the result is a truth value


class RecordedReduction(NamedTuple):
    """A reduction that was asked for, and its answer."""

    kind: type[Reduction]
    of: RecordedValue
    over_model: bool
    result: RecordedValue


class Recording(NamedTuple):
    """A program, written down: `outputs` are the new parameter and state."""

    param: RecordedValue
    grad: RecordedValue
    state: dict[str, RecordedValue]
    coefficients: dict[str, RecordedValue]
    element: RecordedValue | None
    operations: list[Operation | RecordedReduction]
    outputs: list[RecordedValue]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    def __init__(self, shape: torch.Size) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shape = shape
        self.operations: list[Operation | RecordedReduction] = []
        self.values: dict[int, RecordedValue] = {}
        self.alive: list[Tensor] = []  # an id is only unique among the living

    def value(self, tensor: Tensor) -> RecordedValue:
        if id(tensor) not in self.values:
            self.values[id(tensor)] = RecordedValue(len(self.values), tensor.dtype, self._varies(tensor.shape))
            self.alive.append(tensor)
        return self.values[id(tensor)]

    def _varies(self, shape: torch.Size) -> tuple[bool, ...]:
        whole = (1,) * (len(self.shape) - len(shape)) + tuple(shape)
        if len(whole) > len(self.shape) or any(one not in (1, of) for one, of in zip(whole, self.shape, strict=True)):
            raise UnknownOperationError(f"a tensor of shape {tuple(shape)} for a parameter of {tuple(self.shape)}")
        return tuple(size > 1 for size in whole)

    def answered(self, request: Reduction) -> Tensor:
        """The answer to a request: as large as the engine's, but of one element where that has no dimensions."""
        along = request.dim if isinstance(request.dim, tuple) else (request.dim,)
        if not along or not request.tensor.dtype.is_floating_point:
            raise UnknownOperationError(f"a {type(request).__name__} of {request.tensor.dtype} along {request.dim}")
        shape = [1] if None in along else list(request.tensor.shape)
        for dim in along:
            if dim is not None:
                shape[dim] = 1
        answer = _made(request.tensor.dtype, torch.Size(shape))
        self.operations.append(
            RecordedReduction(type(request), self.value(request.tensor), request.over == "model", self.value(answer))
        )
        return answer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if not tensors:
            raise UnknownOperationError(f"{func}, a tensor that is made in the step")
        computed_in = torch.result_type(*tensors[-2:]) if len(tensors) > 1 else tensors[0].dtype
        # A dtype argument is told by the dtype of the result, and recorded tensors lie nowhere; where other keywords
        # matter, they end the recording.
        plain = {key: one for key, one in kwargs.items() if key not in ("dtype", "pin_memory") and one is not None}
        name = str(func) if not plain else f"{func} with {plain}"
        known = tuple(self.value(arg) if isinstance(arg, Tensor) else arg for arg in args)
        self.operations.append(Operation(name, known, self.value(result), computed_in))
        return result


def _made(dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def record(program: Program, dtype: torch.dtype, num_dims: int = 1, *, larger: int = 0) -> Recording:
    """Write down a program for parameters of this dtype and number of dimensions.

    What is written must be the same at other sizes (`larger`); a rule that reads sizes off itself is told by that.
    """
    if num_dims + larger > len(_SIZES):
        raise UnknownOperationError(f"parameters of {num_dims} dimensions")
    shape = torch.Size(_SIZES[larger : num_dims + larger])
    recorder = _Recorder(shape)
    param, grad = _made(dtype, shape), _made(dtype, shape)
    layout = program.layout(shape)
    # Their dtypes and shapes are those of a state made for a real parameter.
    example = program.init(torch.zeros(shape, dtype=dtype, device="cpu"))
    # A tensor without dimensions would count as a number where dtypes meet, which a coefficient is, and a state not.
    state = type(example)(*(_made(leaf.dtype, leaf.shape or torch.Size([1])) for leaf in example))
    row = program.coefficients(1)
    c = type(row)(*(_made(torch.float64, torch.Size([])) for _ in row))
    index = _made(torch.int64, shape) if program.needs_index else None
    inputs = [recorder.value(tensor) for tensor in (param, grad, *state, *c)]
    index_value = None if index is None else recorder.value(index)
    asking = program.update(param, grad, state, c, index)
    answer = None
    try:
        while True:
            with recorder, torch.no_grad():
                request = asking.send(answer)
            answer = recorder.answered(request)
    except StopIteration as stop:
        new_param, new_state = stop.value
    outputs = [recorder.value(tensor) for tensor in (new_param, *new_state)]
    num_state = len(layout)
    before = [inputs[0], *inputs[2 : 2 + num_state]]
    if [one[1:] for one in outputs] != [one[1:] for one in before]:
        raise UnknownOperationError("a step that changes the dtype or shape of the parameter or of what it remembers")
    return Recording(
        param=inputs[0],
        grad=inputs[1],
        state=dict(zip(layout, inputs[2 : 2 + num_state], strict=True)),
        coefficients=dict(zip(row._fields, inputs[2 + num_state :], strict=True)),
        element=index_value,
        operations=recorder.operations,
        outputs=outputs,
    )
