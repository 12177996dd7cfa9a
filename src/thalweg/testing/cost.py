"""Checks of what a step costs as the number of parameters grows."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.testing.kit import Kit, gradients, train


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Counts operations, and how often a computed tensor is read back to Python."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.own, self.operations, self.reads = own, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        # torch keeps its count of steps on the CPU: to read that one waits for nothing.
        self.reads += "_local_scalar_dense" in str(func) and args[0].data_ptr() not in self.own
        return func(*args, **(kwargs or {}))


def _counted(kit: Kit, copies: int) -> _Counted:
    params = [param for _ in range(copies) for param in kit.params()]
    optimizer = kit.made(params)
    train(optimizer, params, range(3))
    state = getattr(optimizer, "state", {})
    steps = {entry["step"].data_ptr() for entry in state.values() if isinstance(entry.get("step"), Tensor)}
    for param, grad in zip(params, gradients(params, 3), strict=True):
        param.grad = grad
    with _Counted(steps) as counted:
        optimizer.step()
    return counted


def waits_for_no_parameter(kit: Kit) -> float:
    """The number of times that a step waits for a device does not grow with the model. Found: 296 a step."""
    few, many = (_counted(kit, copies).reads for copies in (1, 4))
    assert many <= few, f"reads of a tensor: {few} for {len(kit.shapes)} parameters, {many} for {4 * len(kit.shapes)}"
    return few


def dispatches_a_parameter(kit: Kit) -> float:
    """A number to keep an eye on: operations that each further parameter adds to a step."""
    few, many = (_counted(kit, copies).operations for copies in (1, 4))
    return (many - few) / (3 * len(kit.shapes))
