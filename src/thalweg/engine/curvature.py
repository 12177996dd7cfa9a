"""Curvature: estimates of the diagonal of a Hessian, from its products with random signs.

    D = z ⊙ (H z)      z = ±1, with E[D] = diag H      (Hutchinson 1990; Bekas, Kokiopoulou & Saad 2007)

The signs are a hash of (seed, parameter, number of the step, element), so a resumed run draws the same signs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.core.shards import (
    all_reduce,
    distribute_like,
    is_dtensor,
    is_flattened,
    is_related_to_all,
    local_tensor,
)
from thalweg.errors import ParameterError
from thalweg.rules import record
from thalweg.rules.math import hashing


def signs(like: Tensor, seed: int, position: int, step: int) -> Tensor:
    """Draw a random sign for each element of a parameter.

    Args:
        like: A tensor of the shape, dtype and device of the result.
        seed: The seed of the optimizer.
        position: The position of the parameter in its optimizer.
        step: The number of the step.

    Returns:
        A tensor of 1 and -1.

    Example:
        >>> import torch
        >>> sorted(set(signs(torch.zeros(100), seed=0, position=0, step=1).tolist()))
        [-1.0, 1.0]
    """
    index = torch.arange(like.numel(), device=like.device).view(like.shape)
    bits = hashing.random_bits(index, record(**hashing.step_keys(seed, position, step))) & 1
    signs: Tensor = distribute_like((2 * bits - 1).to(like.dtype), like)
    return signs


def estimate(
    who: str, loss: Tensor, params: Sequence[Tensor], signs: Sequence[Tensor], process_group: Any
) -> list[Tensor]:
    """Estimate the diagonal of the Hessian of a loss that several processes may compute, each for its own examples.

    Args:
        who: The name of the optimizer, for the error message.
        loss: The loss of this process, of shape ``()``, with its graph.
        params: The parameters.
        signs: The random signs of each parameter, the same in all processes.
        process_group: The processes whose estimates are averaged, or ``"self"`` for this process alone. It may be None
            if there is no choice.

    Returns:
        The estimate for each parameter, or for the part of it that this process holds.

    Raises:
        ParameterError: If FSDP hides a parameter from autograd, or if `process_group` is None and other processes may
            hold the same parameters.
    """
    grads = _differentiable_gradients(who, loss, params)
    return _average(who, hutchinson(grads, params, signs), params, process_group)


def _differentiable_gradients(who: str, loss: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of a loss with their graph; zeros for parameters that it does not depend on."""
    grads: Sequence[Tensor | None] = [None] * len(params)
    if not any(map(is_flattened, params)):
        grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    for param, grad in zip(params, grads, strict=True):
        if grad is None and (is_dtensor(param) or is_flattened(param)):
            raise ParameterError(
                f"{who}: the graph of the loss must hold every sharded parameter, got one of shape "
                f"{tuple(param.shape)} that it does not hold. FSDP computes with copies of its parameters, which "
                "leaves no second derivatives. Use absorb_gauss_newton(num_examples), which needs gradients alone, or "
                "train with DistributedDataParallel."
            )
    return [torch.zeros_like(param) if grad is None else grad for param, grad in zip(params, grads, strict=True)]


def _average(who: str, estimates: Sequence[Tensor], params: Sequence[Tensor], process_group: Any) -> list[Tensor]:
    """Return the means of the estimates of several processes, for the part of each parameter that is in this one."""
    if process_group is None and not all(map(is_related_to_all, params)):
        raise ParameterError(
            f"{who}: estimate_curvature must know the processes that train this model, got no process_group. With "
            "DistributedDataParallel pass process_group=torch.distributed.group.WORLD, which averages the estimates as "
            "gradients are averaged. If this process trains a model of its own, pass process_group='self'."
        )
    local = [local_tensor(estimate, param) for estimate, param in zip(estimates, params, strict=True)]
    if process_group is None or process_group == "self":
        return local
    num_processes = torch.distributed.get_world_size(process_group)
    return [all_reduce(estimate, [process_group]) / num_processes for estimate in local]


def hutchinson(grads: Sequence[Tensor], params: Sequence[Tensor], signs: Sequence[Tensor]) -> list[Tensor]:
    """Estimate the diagonal of the Hessian, z ⊙ (H z).

    Args:
        grads: The gradients, computed with ``create_graph=True``.
        params: The parameters.
        signs: The random signs z of each parameter.

    Returns:
        The estimate for each parameter, of its shape.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> grads = torch.autograd.grad((x**3).sum(), [x], create_graph=True)
        >>> hutchinson(grads, [x], [torch.tensor([1.0, -1.0])])
        [tensor([6., 6.])]
    """
    differentiable = [k for k, grad in enumerate(grads) if grad.requires_grad]
    if not differentiable:  # the loss is linear
        return [torch.zeros_like(param) for param in params]
    products = torch.autograd.grad(
        [grads[k] for k in differentiable],
        params,
        [signs[k] for k in differentiable],
        retain_graph=True,
        materialize_grads=True,
    )
    return [sign * product for sign, product in zip(signs, products, strict=True)]
