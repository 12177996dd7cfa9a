"""Entries: what `optimizer.state` holds of a parameter, made, or taken over from what is found there."""

from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core import precision
from thalweg.engine.core.program import Program
from thalweg.errors import ParameterError
from thalweg.rules.core.state import StateTensor


def complete(record: dict[str, Any], program: Program, param: Tensor) -> None:
    """Make the entries of a parameter that the program needs and that are not there, or not as it needs them."""
    layout = program.layout(as_engine_tensor(param).shape)
    if all(_fits(record.get(leaf.key), leaf, param) for leaf in layout.values()):
        return
    # The first step, or a setting that asks for more state was changed on the way, or another library saved it.
    fresh = program.init(as_engine_tensor(param))
    for name, leaf in layout.items():
        first = _like(getattr(fresh, name), leaf, param)
        record[leaf.key] = first if record.get(leaf.key) is None else _adopted(record[leaf.key], first, leaf.key)


def _like(tensor: Tensor, leaf: StateTensor, param: Any) -> Tensor:
    """What is remembered, of the kind that its parameter is: complex, or sharded in the same way."""
    if param.is_complex() and tensor.shape == torch.view_as_real(param).shape:
        return torch.view_as_complex(tensor)
    if hasattr(param, "to_local"):
        from torch.distributed.tensor import DTensor, Replicate

        whole = leaf.shape(param.shape)
        alike = len(whole) == param.dim()
        placements = [
            at if not at.is_shard() or (alike and whole[at.dim] == param.shape[at.dim]) else Replicate()
            for at in param.placements
        ]
        stride = torch.empty(whole, device="meta").stride() if whole != param.shape else param.stride()
        return DTensor.from_local(tensor, param.device_mesh, placements, run_check=False, shape=whole, stride=stride)
    return tensor


def _fits(entry: Any, leaf: StateTensor, param: Tensor) -> bool:
    wanted = (
        as_engine_tensor(param).dtype
        if leaf.key == "residual"
        else precision.compute_dtype(as_engine_tensor(param).dtype)
    )
    if not isinstance(entry, Tensor) or entry.layout != torch.strided:
        return False
    held = as_engine_tensor(entry)
    return (held.dtype, held.device) == (wanted, param.device) and held.shape == leaf.shape(
        as_engine_tensor(param).shape
    )


def _adopted(entry: Any, first: Tensor, key: str) -> Tensor:
    entry = torch.as_tensor(entry)
    check_shape(entry, first.shape, key)
    return first.copy_(entry)


def check_shape(entry: Tensor, wanted: torch.Size, key: str) -> None:
    """Refuse what is remembered of a parameter of another shape."""
    if entry.shape != wanted:
        raise ParameterError(
            f"state[{key!r}] must have shape {tuple(wanted)}, got {tuple(entry.shape)}. "
            "Load the checkpoint of a model of this shape."
        )


def as_engine_tensor(tensor: Tensor) -> Tensor:
    """A tensor as the engine runs it: complex numbers as pairs, as in torch.optim; of a sharded one, the shard here."""
    if isinstance(tensor, Tensor) and hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
