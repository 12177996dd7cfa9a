"""Curvature: estimates of the diagonal of a Hessian, from its products with random signs.

    D = z ⊙ (H z)      z = ±1, with E[D] = diag H      (Hutchinson 1990; Bekas, Kokiopoulou & Saad 2007)

The signs are a hash of (seed, parameter, number of the step, element), so a resumed run draws the same signs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

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
    bits = hashing.noise(index, record(**hashing.keys(seed, position, step))) & 1
    return (2 * bits - 1).to(like.dtype)


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
