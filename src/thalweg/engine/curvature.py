"""Curvature: estimates of the diagonal of a Hessian, by products of the Hessian with random signs.

    D = z ⊙ (H z)      z = ±1, with E[D] = diag H      (Hutchinson 1990; Bekas, Kokiopoulou & Saad 2007)

The signs are a hash of (seed, parameter, count of steps, element), so a resumed run draws those it would have drawn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.rules import record
from thalweg.rules.math import hashing


def signs(like: Tensor, seed: int, position: int, step: int) -> Tensor:
    """±1 for each element of the parameter at this position of its optimizer, at this step."""
    index = torch.arange(like.numel(), device=like.device).view(like.shape)
    bits = hashing.random_bits(index, record(**hashing.step_keys(seed, position, step))) & 1
    return (2 * bits - 1).to(like.dtype)


def hutchinson(grads: Sequence[Tensor], params: Sequence[Tensor], drawn: Sequence[Tensor]) -> list[Tensor]:
    """The estimate z ⊙ (H z) for each parameter, from gradients that were computed with `create_graph=True`."""
    followed = [k for k, grad in enumerate(grads) if grad.requires_grad]
    if not followed:  # the loss is linear
        return [torch.zeros_like(param) for param in params]
    products = torch.autograd.grad(
        [grads[k] for k in followed], params, [drawn[k] for k in followed], retain_graph=True, materialize_grads=True
    )
    return [sign * product for sign, product in zip(drawn, products, strict=True)]
