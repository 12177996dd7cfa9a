"""Matrices: what rules share that take a parameter as a whole matrix, or as a tensor with a matrix for each dimension.

Convolutions and other parameters with more than two dimensions become (first, rest). All functions take batches of
matrices too, in front.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.base.hyper import choice
from thalweg.rules.base.polar_express import polar_express
from thalweg.rules.base.rule import of_shape

# Of the iteration that makes a matrix orthogonal (Jordan et al. 2024), and the least norm that is divided by.
JORDANS = (3.4445, -4.775, 2.0315)
LEAST_NORM = 1e-7
# A long matrix is multiplied once for so many steps. More lose digits: in float32 three are as exact as one, whatever
# the singular values, and five up to a hundred times less so.
_STRETCH = 3
_LONG = 1.5  # columns for each row; from here on less is multiplied (measured: 0.85 of the time at 2, 0.65 at 4)


def which_polynomials() -> Any:
    """Declare whose polynomials the iteration takes."""
    return choice("jordan", "polar-express", doc="whose polynomials the iteration takes")


def as_matrix(tensor: Tensor) -> Tensor:
    """A tensor of two dimensions or more as a matrix."""
    return tensor.reshape(tensor.shape[0], -1)


def sides(shape: torch.Size) -> tuple[int, int]:
    """The rows and columns of a parameter's matrix."""
    return shape[0], shape[1:].numel()


def polynomials(which: str, num_steps: int, jordans: Sequence[Any] = JORDANS) -> Sequence[Sequence[Any]]:
    """The (a, b, c) of each step of the iteration."""
    return polar_express(num_steps) if which == "polar-express" else [jordans] * num_steps


def newton_schulz(matrix: Tensor, polynomials: Sequence[Sequence[Any]], eps: Any) -> Tensor:
    """U Vᵀ of a matrix U S Vᵀ, nearly: the singular values end around 1.

    The iteration is X ← a X + (b X Xᵀ + c (X Xᵀ)²) X on the smaller side, from the matrix over its norm. For a long X
    it goes on in X Xᵀ alone, some steps at a time (Amsel et al. 2025, arXiv:2505.16932, Algorithm 4, with restarts).
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / torch.clamp(torch.linalg.matrix_norm(x, keepdim=True), min=eps)
    together = _STRETCH if x.shape[-1] > _LONG * x.shape[-2] else 1
    for start in range(0, len(polynomials), together):
        x = _factor(x @ x.mT, polynomials[start : start + together]) @ x
    return x.mT if tall else x


def _factor(gram: Tensor, polynomials: Sequence[Sequence[Any]]) -> Tensor:
    """What some steps together multiply X by from the left, found from X Xᵀ alone."""
    whole = factor = _quadratic(gram, polynomials[0])
    for polynomial in polynomials[1:]:
        gram = factor @ gram @ factor  # X Xᵀ after the last step
        factor = _quadratic(gram, polynomial)
        whole = factor @ whole
    return whole


def _quadratic(gram: Tensor, polynomial: Sequence[Any]) -> Tensor:
    """What one step multiplies X by: a + b X Xᵀ + c (X Xᵀ)²."""
    a, b, c = polynomial
    one = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return a * one + b * gram + c * (gram @ gram)


def inverse_root(matrix: Tensor, order: int) -> Tensor:
    """A^(-1/order) of a positive semi-definite matrix; computed in float64, since small eigenvalues count most.

    Eigenvalues that the matrix's own dtype cannot tell from zero, and may even make negative, are taken for the least
    that it can: their inverse would be noise, and far larger than all else.
    """
    values, vectors = torch.linalg.eigh(matrix.double())
    known = torch.finfo(matrix.dtype)
    least = values[..., -1:] * (known.eps * matrix.shape[-1])
    powers = torch.maximum(values, torch.clamp(least, min=known.tiny)) ** (-1 / order)
    return ((vectors * powers.unsqueeze(-2)) @ vectors.mT).to(matrix.dtype)


def along(tensor: Tensor, matrix: Tensor, dim: int) -> Tensor:
    """A tensor multiplied along one dimension by the transpose of a matrix: Σ_i t[.., i, ..] m[i, j]."""
    return torch.tensordot(tensor, matrix, dims=([dim], [0])).movedim(-1, dim)


def outer(tensor: Tensor, dim: int) -> Tensor:
    """A tensor times itself, summed over all dimensions but one."""
    flat = tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1)
    return flat @ flat.mT


MOST_DIMS = 6


def each_dim(
    name: str,
    *,
    unit: str,
    key: str,
    first: Callable[[Any, int, Tensor], Tensor] | None = None,
    single_numbers: bool = True,
) -> dict[str, Any]:
    """Declare a square matrix for each dimension of a parameter, called `name0`, `name1`, ...; zero at first.

    `first(rule, size, param)` makes another first value. A single number counts as one dimension, or as none.
    """

    def declared(dim: int) -> Any:
        def size(shape: torch.Size) -> int:
            return shape[dim] if shape else 1

        def shaped(rule: Any, shape: torch.Size) -> torch.Size:
            return torch.Size([size(shape), size(shape)])

        def exists(rule: Any, shape: torch.Size) -> bool:
            return dim < (len(shape) or single_numbers)

        def begun(rule: Any, param: Tensor) -> Tensor:
            return first(rule, size(param.shape), param) if first else param.new_zeros(shaped(rule, param.shape))

        return of_shape(shaped, unit=unit, key=f"{key}_{dim}", when=exists, first=begun)

    return {f"{name}{dim}": declared(dim) for dim in range(MOST_DIMS)}
