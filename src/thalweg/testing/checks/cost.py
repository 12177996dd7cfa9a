"""Checks of the cost of a step as the number of parameters grows."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.testing.fixtures import Subject, set_gradients


class _OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    """Counts operations, and how often the value of a computed tensor is read by Python.

    Args:
        uncounted: Addresses of tensors whose reads do not count.
    """

    def __init__(self, uncounted: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.uncounted, self.operations, self.reads = uncounted, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        self.reads += "_local_scalar_dense" in str(func) and args[0].data_ptr() not in self.uncounted
        return func(*args, **(kwargs or {}))


def _count_a_step(subject: Subject, copies: int) -> _OperationCounter:
    """Count the operations of one step, with so many copies of the parameters."""
    params = [param for _ in range(copies) for param in subject.params()]
    optimizer = subject.optimizer(params)
    subject.train(optimizer, params, range(3))
    state = getattr(optimizer, "state", {})
    # torch keeps the number of steps on the CPU, so reading it does not wait for a device.
    steps = {entry["step"].data_ptr() for entry in state.values() if isinstance(entry.get("step"), Tensor)}
    set_gradients(params, 3)
    with _OperationCounter(steps) as counter:
        subject.step(optimizer, params)
    return counter


def waits_for_no_parameter(subject: Subject) -> float:
    """The number of times that a step waits for a device does not grow with the model. Known defect: 296 a step."""
    few, many = (_count_a_step(subject, copies).reads for copies in (1, 4))
    num_params = len(subject.shapes)
    assert many <= few, f"reads of a tensor: {few} for {num_params} parameters, {many} for {4 * num_params}"
    return few


def dispatches_a_parameter(subject: Subject) -> float:
    """Return the number of operations that each further parameter adds to a step. This check never fails."""
    few, many = (_count_a_step(subject, copies).operations for copies in (1, 4))
    return (many - few) / (3 * len(subject.shapes))
