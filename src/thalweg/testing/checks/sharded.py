"""Check of sharded parameters: two processes, each with half of each parameter, take the steps of one process."""

from functools import cache
from typing import Any

from torch import Tensor

from thalweg.testing.fixtures import RefusedError, Subject, make_gradients
from thalweg.testing.process_pair import run_in_pair

_NUM_STEPS = 5


def steps_alike_when_sharded(subject: Subject) -> float | None:
    """Two gloo processes with DTensors, as from ``fully_shard``, end where one does. Known defect: 13.8 % off.

    The factory must be one that can be pickled: a function of a module, or a ``functools.partial`` of one.
    """
    subject.require_cpu("two processes need two devices")
    return run_in_pair(_compare_with_whole, subject)


def _compare_with_whole(subject: Subject, rank: int) -> float | None:
    """Run in both processes: train on shards and, in the first process, on whole parameters."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    def shard(tensor: Tensor) -> Any:
        return distribute_tensor(tensor.detach(), _mesh(), [Shard(0) if tensor.dim() else Replicate()])

    whole = subject.params()
    params = [shard(param).requires_grad_() for param in whole]
    try:
        optimizer = subject.optimizer(params)
        for step in range(_NUM_STEPS):
            for param, grad in zip(params, make_gradients(whole, step), strict=True):
                param.grad = shard(grad)
            subject.step(optimizer, params)
    except Exception as error:
        if "sharded" in str(error):
            raise RefusedError(f"{type(error).__name__}: {error}") from error
        raise
    ends = [param.detach().full_tensor() for param in params]
    if rank != 0:
        return None
    subject.train(subject.optimizer(whole), whole, range(_NUM_STEPS))
    errors = [
        float((end - param).detach().norm() / (param - start).detach().norm())
        for end, param, start in zip(ends, whole, subject.params(), strict=True)
    ]
    assert max(errors) < 1e-5, f"the change is off by {max(errors):.3g} of its size"
    return max(errors)


@cache
def _mesh() -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (2,))
