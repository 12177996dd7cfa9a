"""PSGDKron: the mean gradient multiplied, along each dimension, by triangular factors that whiten it.

    m_t = β m_{t-1} + (1 - β) g_t                    m̂_t = m_t / (1 - βᵗ)
    in each of the first T steps, and then every n steps, with v ~ N(0, 1) for each element:
        A = m̂_t + ε rms(m̂_t) v, multiplied along each dimension by Q_i
        B = v, multiplied along each dimension by Q_i⁻ᵀ
        Q_i ← Q_i - μ triu(A Aᵀ - B Bᵀ) Q_i / ‖A Aᵀ + B Bᵀ‖       for each i, products summed over all other dimensions
    d_t = m̂_t, multiplied along each dimension by Q_iᵀ Q_i
    θ_t = (1 - ηλ) θ_{t-1} - η d_t min(1, c / rms(d_t))

The Q_i start as multiples of the identity, and their product is q. Q_i is diagonal if its dimension is larger than N,
or larger than κ times the product of all other dimensions.

Use: in place of Adam or Shampoo, if gradients are correlated between rows or columns. η is Adam's, or a third of it.
Avoid: very short training: the factors do not settle. Embeddings: a row without a gradient is moved by rows with a
gradient. Dimensions of thousands, unless N is smaller.
Source: Li 2015, arXiv:1512.04202, for Q and its update; Li 2018, arXiv:1809.10232, for white gradients (Fisher type).
Departs: Q changes at fixed steps; the author's code draws the steps at random. ‖·‖ is the spectral norm, approximated
by two power iterations. ε is relative, and a gradient of 0 changes no Q. The Q_i are rescaled to the same size, which
changes no step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import Range, Scalar, count, hyper, learning_rate, mean_decay
from thalweg.rules.core.records import record
from thalweg.rules.core.reductions import Norm, ReductionGenerator
from thalweg.rules.core.rule import MAX_DIMS
from thalweg.rules.core.state import like_param, of_shape
from thalweg.rules.math import decay
from thalweg.rules.math.hashing import standard_normal
from thalweg.rules.math.matrices import mode_gram, mode_product
from thalweg.rules.math.roots import as_divisor


def _sizes(shape: torch.Size) -> Sequence[int]:
    """Return the sizes of the dimensions. A single number has one dimension of size 1."""
    return shape or (1,)


def _factor(dim: int) -> Any:
    """Declare the factor of a dimension: an upper triangle or a diagonal."""

    def shaped(rule: Any, shape: torch.Size) -> torch.Size:
        size = _sizes(shape)[dim]
        diagonal = size > rule.max_size or size * size > rule.max_skew * shape.numel()
        return torch.Size([size] if diagonal else [size, size])

    def first(rule: Any, param: Tensor) -> Tensor:
        values = param.new_ones(_sizes(param.shape)[dim]) * rule.precond_init ** (1 / max(1, param.dim()))
        return values if len(shaped(rule, param.shape)) == 1 else torch.diag(values)

    return of_shape(
        shaped, unit="1/√g", key=f"factor_{dim}", init=first, when=lambda rule, shape: dim < len(_sizes(shape))
    )


@dataclass(frozen=True, kw_only=True)
class PSGDKron(
    decay.Decoupled,
    scope="matrix",
    corrects_bias=True,
    supports_complex=False,
    max_dims=MAX_DIMS,
    supports_vmap=False,
    uses_random_numbers=True,
):
    """The mean gradient multiplied, along each dimension, by triangular factors that whiten it."""

    lr: Scalar = learning_rate(1e-3)
    momentum: Scalar = mean_decay(0.9, symbol="β", keyword=None)
    precond_lr: Scalar = hyper(
        0.1, "(0, 1)", symbol="μ", search=Range(0.01, 0.5, "log"), doc="relative step size of the factors"
    )
    precond_init: Scalar = hyper(1.0, "> 0", symbol="q", unit="1/√g", doc="product of the factors at the start")
    update_every: int = count(10, ">= 1", symbol="n", doc="steps between two updates of the factors, after the first T")
    update_first: int = count(500, ">= 0", symbol="T", doc="first steps, each of which updates the factors")
    max_size: int = count(8192, ">= 1", symbol="N", doc="largest dimension with a triangular factor")
    max_skew: int = count(8, ">= 1", symbol="κ", doc="largest ratio of that dimension to the product of the others")
    clip: Scalar = hyper(1.1, "> 0", symbol="c", doc="largest root mean square of a direction")
    eps: Scalar = hyper(
        1e-4,
        "> 0",
        symbol="ε",
        doc="relative noise on the gradient in updates of the factors",
        place="noise on the gradient",
    )
    weight_decay: Scalar = decay.shrinkage()

    State = type(  # type: ignore[assignment]  # one field for each possible dimension
        "State",
        (),
        {"m": like_param(unit="g", key="momentum_buffer"), **{f"q{dim}": _factor(dim) for dim in range(MAX_DIMS)}},
    )

    def coefficients(self, step: int) -> Any:
        return record(
            lr=self.lr,
            momentum=self.momentum,
            fresh=1 - self.momentum,
            m_correct=1 / (1 - self.momentum**step),
            updates_factors=float(step <= self.update_first or (step - 1) % self.update_every == 0),
            precond_lr=self.precond_lr,
            clip=self.clip,
            eps=self.eps,
            shrink=decay.shrink(self),
        )

    def direction(self, param: Tensor, grad: Tensor, state: Any, c: Any) -> ReductionGenerator:
        m = c.momentum * state.m + c.fresh * grad
        mean = (c.m_correct * m).reshape(_sizes(grad.shape))
        factors = [getattr(state, f"q{dim}") for dim in range(mean.dim())]
        # All products are made of numbers near 1 and rescaled in the end, since gradients and factors have any size.
        size = _largest(mean)
        mean = mean / as_divisor(size)
        if c.updates_factors:
            rms = yield from _root_mean_square(mean)
            noise = standard_normal(mean, c)
            updated = _updated_factors(factors, mean + c.eps * rms * noise, size, noise, c.precond_lr)
            factors = [torch.where(size > 0, new, old) for new, old in zip(updated, factors, strict=True)]
        d = mean
        for factor in factors:
            size = size * _largest(factor) * _largest(factor)
        for dim, factor in enumerate(_normalized(factors)):
            d = _multiply(factor, _multiply(factor, d, dim), dim, transposed=True)
        rms = yield from _root_mean_square(d)
        d = (d * torch.minimum(size, c.clip * as_divisor(rms).reciprocal())).reshape(grad.shape)
        return d, state._replace(m=m, **{f"q{dim}": factor for dim, factor in enumerate(factors)})


def _root_mean_square(tensor: Tensor) -> ReductionGenerator:
    return (yield Norm(tensor)) / max(1, tensor.numel()) ** 0.5


def _largest(tensor: Tensor) -> Tensor:
    """Return the size of the largest element."""
    return tensor.abs().amax()


def _normalized(factors: Sequence[Tensor]) -> list[Tensor]:
    return [factor / _largest(factor) for factor in factors]


def _updated_factors(
    factors: Sequence[Tensor], grad: Tensor, grad_size: Tensor, noise: Tensor, step_size: Any
) -> list[Tensor]:
    """Return the updated factors, rescaled to the same size. Only their product matters.

    The gradient is `grad` times `grad_size`.
    """
    for factor in factors:
        grad_size = grad_size * _largest(factor) * _largest(factor)
    for dim, factor in enumerate(_normalized(factors)):
        grad, noise = _multiply(factor, grad, dim), _divide(factor, noise, dim)
    # Only the ratio of the two matters. Numbers of at most 1 have squares, and squares of these.
    grad, noise = grad * torch.clamp(grad_size, max=1.0), noise / torch.clamp(grad_size, min=1.0)
    scale = as_divisor(torch.maximum(_largest(grad), _largest(noise)))
    grad, noise = grad / scale, noise / scale
    new = []
    for dim, factor in enumerate(factors):
        if factor.dim() == 1:
            gained, lost = _diagonal_of_outer(grad, dim), _diagonal_of_outer(noise, dim)
            new.append(factor - step_size * ((gained - lost) / (gained + lost).amax()) * factor)
        else:
            gained, lost = mode_gram(grad, dim), mode_gram(noise, dim)
            new.append(factor - step_size * (torch.triu(gained - lost) / _spectral_norm(gained + lost)) @ factor)
    largest = torch.stack([factor.abs().amax() for factor in new]).log()
    return [factor * torch.exp(largest.mean() - size) for factor, size in zip(new, largest, strict=True)]


def _multiply(factor: Tensor, tensor: Tensor, dim: int, *, transposed: bool = False) -> Tensor:
    """Multiply a tensor along a dimension by a factor."""
    if factor.dim() == 1:
        return tensor * _broadcast(factor, tensor, dim)
    return mode_product(tensor, factor if transposed else factor.mT, dim)


def _divide(factor: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """Multiply a tensor along a dimension by the transposed inverse of a factor."""
    if factor.dim() == 1:
        return tensor / _broadcast(factor, tensor, dim)
    first = tensor.movedim(dim, 0)
    solved = torch.linalg.solve_triangular(factor.mT, first.reshape(len(factor), -1), upper=False)
    return solved.view(first.shape).movedim(0, dim)


def _broadcast(factor: Tensor, tensor: Tensor, dim: int) -> Tensor:
    return factor.view(-1, *[1] * (tensor.dim() - dim - 1))


def _diagonal_of_outer(tensor: Tensor, dim: int) -> Tensor:
    """Return the diagonal of `mode_gram`."""
    return (tensor * tensor).movedim(dim, 0).reshape(tensor.shape[dim], -1).sum(1)


def _spectral_norm(matrix: Tensor) -> Tensor:
    """Approximate the spectral norm of a symmetric positive definite matrix by two power iterations.

    The longest column stands for the first iteration. The result is at least as large as each element of the diagonal,
    so a factor stays invertible.
    """
    longest = torch.linalg.vector_norm(matrix, dim=0).argmax(0, keepdim=True)
    product = matrix @ matrix.index_select(1, longest)
    return torch.linalg.vector_norm(matrix @ product) / torch.linalg.vector_norm(product)
