"""State entries: the tensors of a parameter in `optimizer.state`, created or adopted from existing entries."""

from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core import precision
from thalweg.engine.core.program import Program
from thalweg.engine.core.shards import is_dtensor, local_tensor
from thalweg.errors import ParameterError
from thalweg.rules.core.state import StateTensor


def complete(record: dict[str, Any], program: Program, param: Tensor) -> None:
    """Create the entries of a parameter that the program needs and that are missing or do not fit.

    Args:
        record: The dictionary of the parameter in the state, which is changed in place.
        program: The program that steps the parameter.
        param: The parameter.

    Raises:
        ParameterError: If an existing entry has the wrong shape.
    """
    layout = program.layout(as_engine_tensor(param).shape)
    if all(_fits(record.get(declared.key), declared, param) for declared in layout.values()):
        return
    # This is the first step, or a changed setting needs more state, or another library saved the entries.
    initial = program.init(as_engine_tensor(param))
    for name, declared in layout.items():
        entry = _like_param(getattr(initial, name), declared, param)
        saved = record.get(declared.key)
        record[declared.key] = entry if saved is None else _adopted(saved, entry, declared.key)


def _like_param(tensor: Tensor, declared: StateTensor, param: Any) -> Tensor:
    """Return a tensor of the state as the same kind of tensor as its parameter: complex, or sharded in the same way."""
    if param.is_complex() and tensor.shape == torch.view_as_real(param).shape:
        return torch.view_as_complex(tensor)
    if is_dtensor(param):
        from torch.distributed.tensor import DTensor, Replicate

        shape = declared.shape(param.shape)
        same_dims = len(shape) == param.dim()
        placements = [
            placement
            if placement.is_replicate() or (same_dims and shape[placement.dim] == param.shape[placement.dim])
            else Replicate()
            for placement in param.placements
        ]
        stride = torch.empty(shape, device="meta").stride() if shape != param.shape else param.stride()
        return DTensor.from_local(tensor, param.device_mesh, placements, run_check=False, shape=shape, stride=stride)
    return tensor


def _fits(entry: Any, declared: StateTensor, param: Tensor) -> bool:
    """Return True if an entry has the layout, dtype, device and shape that the program needs."""
    if not isinstance(entry, Tensor) or entry.layout != torch.strided:
        return False
    local_param, local_entry = as_engine_tensor(param), as_engine_tensor(entry)
    dtype = local_param.dtype if declared.key == "residual" else precision.compute_dtype(local_param.dtype)
    return (local_entry.dtype, local_entry.device) == (dtype, param.device) and local_entry.shape == declared.shape(
        local_param.shape
    )


def _adopted(saved: Any, entry: Tensor, key: str) -> Tensor:
    saved = torch.as_tensor(saved)
    check_shape(saved, entry.shape, key)
    return entry.copy_(saved)


def check_shape(entry: Tensor, expected: torch.Size, key: str) -> None:
    """Raise ParameterError unless an entry of the state has the expected shape."""
    if entry.shape != expected:
        raise ParameterError(
            f"state[{key!r}] must have shape {tuple(expected)}, got {tuple(entry.shape)}. "
            "Load the checkpoint of a model of this shape."
        )


def as_engine_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor as the engine runs it: a complex one as pairs of numbers, a sharded one as its local shard."""
    if isinstance(tensor, Tensor):
        tensor = local_tensor(tensor, tensor)
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def as_engine_gradient(grad: Tensor, param: Tensor) -> Tensor:
    """Return a gradient as the engine runs it: where its parameter is, if both are sharded."""
    return as_engine_tensor(local_tensor(grad, param))
