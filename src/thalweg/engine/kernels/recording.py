"""Recording: a program run once on tensors without data, written down operation by operation.

A recording is straight-line code: the switches of the rule have chosen its branches, and its numbers are inputs. Where
the rule requests a reduction, the recording holds the request, and its result is one more input.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.engine.core.program import Program
from thalweg.rules.core.matrix_requests import MatrixRequest
from thalweg.rules.core.reductions import Products, Reduction, Replace, Request, RequestGenerator

# Sizes of the dimensions of recorded tensors. None is 1, which broadcasts, and no two are equal, so that a reshaped or
# transposed tensor is not mistaken for the original.
_SIZES = (2, 3, 5, 7, 11, 13)


class UnknownOperationError(Exception):
    """A recording contains something that kernels cannot compute with the same rounding as PyTorch."""


class RecordedValue(NamedTuple):
    """An input or a result.

    Attributes:
        place: The number of the value in the recording.
        dtype: Its dtype.
        varies: For each dimension of the parameter, True if the value varies along it.
    """

    place: int
    dtype: torch.dtype
    varies: tuple[bool, ...]


class Operation(NamedTuple):
    """One call of an operator on values and plain numbers.

    Attributes:
        operator: The name of the operator, as in ``aten.add.Tensor``.
        args: Recorded values and plain numbers.
        result: The result.
        computed_in: The dtype of the operands; in a comparison it differs from that of the result.
    """

    operator: str
    args: tuple[Any, ...]
    result: RecordedValue
    computed_in: torch.dtype


class RecordedReduction(NamedTuple):
    """A requested reduction and its result.

    Attributes:
        kind: The class of the request: ``Sum``, ``Mean``, ``Norm`` or ``Max``.
        operand: The value that is reduced.
        over_model: True if the reduction covers the whole model.
        part: The members of composites that it is limited to.
        result: The result.
    """

    kind: type[Reduction]
    operand: RecordedValue
    over_model: bool
    part: tuple[str, ...]
    result: RecordedValue


class Recording(NamedTuple):
    """A program, written down.

    Attributes:
        param: The parameter.
        grad: Its gradient.
        state: Its state, by name.
        coefficients: The scalars of the step, by name.
        element: The number of each element, for stochastic rounding.
        operations: The operations and reductions, in the order in which they run.
        outputs: The new parameter, then the new state.
    """

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
        self.alive: list[Tensor] = []  # an id is unique among living objects only

    def value(self, tensor: Tensor) -> RecordedValue:
        if id(tensor) not in self.values:
            self.values[id(tensor)] = RecordedValue(len(self.values), tensor.dtype, self._varies(tensor.shape))
            self.alive.append(tensor)
        return self.values[id(tensor)]

    def _varies(self, shape: torch.Size) -> tuple[bool, ...]:
        padded = (1,) * (len(self.shape) - len(shape)) + tuple(shape)
        if len(padded) > len(self.shape) or any(
            size not in (1, expected) for size, expected in zip(padded, self.shape, strict=True)
        ):
            raise UnknownOperationError(f"a tensor of shape {tuple(shape)} for a parameter of {tuple(self.shape)}")
        return tuple(size > 1 for size in padded)

    def reduce(self, request: Request) -> Tensor:
        """Record a request; return its result, of one element where the engine's has no dimensions."""
        if isinstance(request, Products | Replace):
            raise UnknownOperationError(f"the request {type(request).__name__}, on a history")
        if isinstance(request, MatrixRequest):
            raise UnknownOperationError(f"the request {type(request).__name__}, on whole matrices")
        dims = request.dim if isinstance(request.dim, tuple) else (request.dim,)
        if not dims or not request.tensor.dtype.is_floating_point:
            raise UnknownOperationError(f"a {type(request).__name__} of {request.tensor.dtype} along {request.dim}")
        shape = [1] if None in dims else list(request.tensor.shape)
        for dim in dims:
            if dim is not None:
                shape[dim] = 1
        result = _meta_tensor(request.tensor.dtype, torch.Size(shape))
        self.operations.append(
            RecordedReduction(
                type(request), self.value(request.tensor), request.over == "model", request.part, self.value(result)
            )
        )
        return result

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if not tensors:
            raise UnknownOperationError(f"{func}, which creates a tensor in the step")
        computed_in = torch.result_type(*tensors[-2:]) if len(tensors) > 1 else tensors[0].dtype
        # The dtype of the result shows a dtype argument, and recorded tensors have no memory to pin. Any other keyword
        # becomes part of the name, which no table of operations holds.
        keywords = {key: arg for key, arg in kwargs.items() if key not in ("dtype", "pin_memory") and arg is not None}
        name = str(func) if not keywords else f"{func} with {keywords}"
        operands = tuple(self.value(arg) if isinstance(arg, Tensor) else arg for arg in args)
        self.operations.append(Operation(name, operands, self.value(result), computed_in))
        return result


def _meta_tensor(dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def record(program: Program, dtype: torch.dtype, num_dims: int = 1, *, larger: int = 0) -> Recording:
    """Record a program.

    Args:
        program: The program.
        dtype: The dtype of its parameters.
        num_dims: The number of their dimensions.
        larger: 1 records at other, larger sizes. The recording differs if the rule reads sizes from tensors.

    Returns:
        The recording.

    Raises:
        UnknownOperationError: If the program does something that no kernel can do.
    """
    if num_dims + larger > len(_SIZES):
        raise UnknownOperationError(f"parameters of {num_dims} dimensions")
    shape = torch.Size(_SIZES[larger : num_dims + larger])
    recorder = _Recorder(shape)
    param, grad = _meta_tensor(dtype, shape), _meta_tensor(dtype, shape)
    layout = program.layout(shape)
    # A real state shows the dtypes and shapes.
    example = program.init(torch.zeros(shape, dtype=dtype, device="cpu"))
    # A tensor without dimensions counts as a number when dtypes are promoted: coefficients do, state does not.
    state = type(example)(*(_meta_tensor(entry.dtype, entry.shape or (1,)) for entry in example))
    scalars = program.coefficients(1)
    c = type(scalars)(*(_meta_tensor(torch.float64, ()) for _ in scalars))
    index = _meta_tensor(torch.int64, shape) if program.needs_index else None
    inputs = [recorder.value(tensor) for tensor in (param, grad, *state, *c)]
    index_value = None if index is None else recorder.value(index)
    new_param, new_state = _run(program.update(param, grad, state, c, index), recorder)
    outputs = [recorder.value(tensor) for tensor in (new_param, *new_state)]
    num_state = len(layout)
    replaced = [inputs[0], *inputs[2 : 2 + num_state]]
    if [value[1:] for value in outputs] != [value[1:] for value in replaced]:
        raise UnknownOperationError("a step that changes the dtype or shape of the parameter or of its state")
    return Recording(
        param=inputs[0],
        grad=inputs[1],
        state=dict(zip(layout, inputs[2 : 2 + num_state], strict=True)),
        coefficients=dict(zip(scalars._fields, inputs[2 + num_state :], strict=True)),
        element=index_value,
        operations=recorder.operations,
        outputs=outputs,
    )


def _run(generator: RequestGenerator, recorder: _Recorder) -> Any:
    """Run a program to its end; return its result."""
    result = None
    try:
        while True:
            with recorder, torch.no_grad():
                request = generator.send(result)
            result = recorder.reduce(request)
    except StopIteration as stop:
        return stop.value
