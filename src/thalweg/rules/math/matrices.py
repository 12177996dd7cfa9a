"""Matrices: what rules share that take a parameter as a whole matrix, or as a tensor with a matrix for each dimension.

Convolutions and other parameters with more than two dimensions become (first, rest). All functions take batches of
matrices too, in front.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import choice
from thalweg.rules.core.rule import MAX_DIMS
from thalweg.rules.core.state import of_shape
from thalweg.rules.math.polar_express import polar_express

# Of the iteration that makes a matrix orthogonal (Jordan et al. 2024), and the least norm that is divided by.
JORDANS = (3.4445, -4.775, 2.0315)
LEAST_NORM = 1e-7
# Rows of a symmetric product that are computed at once: fewer are slow in a BLAS, more compute what is mirrored.
STRIP = 192
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
        x = _factor(gram(x), polynomials[start : start + together]) @ x
    return x.mT if tall else x


def _factor(square: Tensor, polynomials: Sequence[Sequence[Any]]) -> Tensor:
    """What some steps together multiply X by from the left, found from X Xᵀ alone."""
    whole = factor = _quadratic(square, polynomials[0])
    for polynomial in polynomials[1:]:
        square = factor @ square @ factor  # X Xᵀ after the last step
        factor = _quadratic(square, polynomial)
        whole = factor @ whole
    return whole


def _quadratic(square: Tensor, polynomial: Sequence[Any]) -> Tensor:
    """What one step multiplies X by: a + b X Xᵀ + c (X Xᵀ)²."""
    a, b, c = polynomial
    one = torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
    return a * one + b * square + c * gram(square)


def root_of(vectors: Tensor, values: Tensor, order: int, known: torch.dtype) -> Tensor:
    """A^(-1/order) of a positive semi-definite matrix A of these eigenvectors (as columns) and eigenvalues.

    Eigenvalues that the dtype in which A is `known` cannot tell from zero, and may even make negative, are taken for
    the least that it can: their inverse would be noise, and far larger than all else.
    """
    limits = torch.finfo(known)
    least = values.amax(-1, keepdim=True) * (limits.eps * values.shape[-1])
    powers = torch.maximum(values, torch.clamp(least, min=limits.tiny)) ** (-0.5 / order)
    return gram(vectors * powers.unsqueeze(-2)).to(known)


def inverse_root(matrix: Tensor, order: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A^(-1/order) of a positive semi-definite matrix, from eigenvectors computed in `dtype`.

    That is float64 unless it is said, since small eigenvalues count most.
    """
    values, vectors = eigh(matrix.to(dtype))
    return root_of(vectors, values, order, matrix.dtype)


def eigenvectors(matrix: Tensor) -> Tensor:
    """The eigenvectors of a symmetric matrix, as columns in falling order of eigenvalues."""
    return eigh(matrix)[1].flip(-1)


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues and eigenvectors of a symmetric matrix; NaN where it is not finite."""
    odd = not_finite(matrix)
    values, vectors = torch.linalg.eigh(matrix.masked_fill(odd, 0.0))
    return values.masked_fill(odd.squeeze(-1), torch.nan), vectors.masked_fill(odd, torch.nan)


def not_finite(matrix: Tensor) -> Tensor:
    """Whether a matrix has NaN or inf in it: torch makes no eigenvectors of it, but raises in the middle of a step."""
    return ~matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)


def rayleigh(matrix: Tensor, vectors: Tensor) -> Tensor:
    """vᵀ A v of each column: what A does along it, its eigenvalue if that is an eigenvector."""
    return (vectors * (matrix @ vectors)).sum(-2)


def turned(basis: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors followed to another matrix by one power iteration, and the order in which the old ones come.

    That is by falling eigenvalues, as the old ones estimate them.
    """
    product = matrix @ basis
    order = torch.argsort((basis * product).sum(-2), descending=True)
    # The Q of a QR decomposition: `torch.linalg.qr` would make R too, a tenth to a third of its time.
    return torch.linalg.householder_product(*torch.geqrf(product.index_select(-1, order))), order


def along(tensor: Tensor, matrix: Tensor, dim: int) -> Tensor:
    """A tensor multiplied along one dimension by the transpose of a matrix: Σ_i t[.., i, ..] m[i, j]."""
    return torch.tensordot(tensor, matrix, dims=([dim], [0])).movedim(-1, dim)


def _half_pays(x: Tensor) -> bool:
    """Whether half of X Xᵀ takes less time than all of it: not for few rows; accelerators were not tried."""
    return x.shape[-2] >= 2 * STRIP and x.device.type == "cpu"


def _strips(x: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Strips of X Xᵀ, from its left end to past the diagonal: (rows, columns, those columns to be mirrored)."""
    for first in range(0, x.shape[-2], STRIP):
        yield slice(first, first + STRIP), slice(0, first + STRIP), slice(0, first)


def gram(x: Tensor) -> Tensor:
    """X Xᵀ, of which little more than half is computed where that pays."""
    if not _half_pays(x):
        return x @ x.mT
    product = x.new_empty(*x.shape[:-1], x.shape[-2])
    for rows, columns, mirrored in _strips(x):
        strip = x[..., rows, :] @ x[..., columns, :].mT
        product[..., rows, columns] = strip
        product[..., mirrored, rows] = strip[..., mirrored].mT
    return product


def unfolded(tensor: Tensor, dim: int) -> Tensor:
    """A tensor as a matrix with a row for each index along one dimension."""
    return tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1)


def outer(tensor: Tensor, dim: int) -> Tensor:
    """A tensor times itself, summed over all dimensions but one."""
    return gram(unfolded(tensor, dim))


def averaged_outer(mean: Tensor, tensor: Tensor, dim: int, keep: Any, fresh: Any) -> Tensor:
    """`keep` times a symmetric matrix and `fresh` times `outer`, added up while they are being computed."""
    x, result = unfolded(tensor, dim), keep * mean
    if not _half_pays(x):
        return result.addmm_(fresh * x, x.mT)
    for rows, columns, mirrored in _strips(x):
        result[rows, columns].addmm_(fresh * x[rows], x[columns].mT)
        result[mirrored, rows] = result[rows, mirrored].mT
    return result


def each_dim(
    name: str,
    *,
    unit: str,
    key: str,
    dims: Callable[[Any, torch.Size], Sequence[int]],
    first: Callable[[Any, int, Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """Declare a square matrix for each of the dimensions `dims(rule, shape)`: `name0`, `name1`, ...; zero at first.

    `first(rule, size, param)` makes another first value. A single number may count as one dimension, of size 1.
    """

    def declared(dim: int) -> Any:
        def size(shape: torch.Size) -> int:
            return shape[dim] if shape else 1

        def shaped(rule: Any, shape: torch.Size) -> torch.Size:
            return torch.Size([size(shape), size(shape)])

        def exists(rule: Any, shape: torch.Size) -> bool:
            return dim in dims(rule, shape)

        def begun(rule: Any, param: Tensor) -> Tensor:
            return first(rule, size(param.shape), param) if first else param.new_zeros(shaped(rule, param.shape))

        return of_shape(shaped, unit=unit, key=f"{key}_{dim}", when=exists, first=begun)

    return {f"{name}{dim}": declared(dim) for dim in range(MAX_DIMS)}
