"""Matrices: the linear algebra of rules for whole matrices, and of rules with a matrix for each dimension of a tensor.

A parameter with more than two dimensions, such as a convolution, becomes a matrix of shape (first, product of the
others). All functions accept batches of matrices, with the batch dimensions in front.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.hyper import choice
from thalweg.rules.core.rule import MAX_DIMS
from thalweg.rules.core.state import of_shape
from thalweg.rules.math.polar_express import polar_express
from thalweg.rules.math.roots import as_divisor

# Of the iteration that orthogonalizes a matrix (Jordan et al. 2024).
JORDAN_COEFFICIENTS = (3.4445, -4.775, 2.0315)
MIN_NORM = 1e-7  # the smallest divisor that normalizes a matrix
# Rows of a symmetric product that are computed at once: fewer are slow in a BLAS, more compute what can be mirrored.
STRIP_ROWS = 192
# Steps of the iteration for each multiplication of a long matrix. More steps lose digits: in float32 three are as exact
# as one for all singular values, and five are up to a hundred times less exact. In 16 bits two are as exact as one, and
# three err up to 2.4 times as much (measured with rounding after each product, for the spectra of `test_precision`).
_STEPS_PER_PRODUCT = 3
_STEPS_PER_PRODUCT_16_BITS = 2
HALVES = (torch.bfloat16, torch.float16)
_LARGEST_DIAGONAL = 0.5  # of a gram matrix, as a share of the largest number: a rounded sum must not overflow
_LONG_RATIO = 1.5  # columns per row from which on this multiplies less (measured: 0.85 of the time at 2, 0.65 at 4)


def polynomial_choice() -> Any:
    """Declare the polynomials of the iteration: a field of a rule's dataclass."""
    return choice("jordan", "polar-express", doc="whose polynomials the iteration takes")


def product_precision() -> Any:
    """Declare the precision of the iteration's products of matrices: a field of a rule's dataclass."""
    return choice("auto", "float32", "bfloat16", "float16", doc="precision of products of matrices")


def product_dtype(products: str, matrix: Tensor) -> torch.dtype:
    """Return the dtype to which products are rounded.

    ``"auto"`` is the dtype of the matrix, except that it is float16 for float32 on CUDA: by its data sheet an H100
    multiplies 16 bits 15 times as fast as float32. The error of float16 is an eighth of that of bfloat16 (measured).
    """
    if products != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[products]
    return torch.float16 if matrix.dtype == torch.float32 and matrix.device.type == "cuda" else matrix.dtype


def as_matrix(tensor: Tensor) -> Tensor:
    """Return a tensor of two dimensions or more as a matrix."""
    return tensor.reshape(tensor.shape[0], -1)


def matrix_shape(shape: torch.Size) -> tuple[int, int]:
    """Return the numbers of rows and columns of a parameter's matrix."""
    return shape[0], shape[1:].numel()


def iteration_polynomials(
    name: str, num_steps: int, jordan: Sequence[Any] = JORDAN_COEFFICIENTS
) -> Sequence[Sequence[Any]]:
    """Return the coefficients (a, b, c) of each step of the iteration."""
    return polar_express(num_steps) if name == "polar-express" else [jordan] * num_steps


def newton_schulz(
    matrix: Tensor, polynomials: Sequence[Sequence[Any]], eps: Any, products: torch.dtype | None = None
) -> Tensor:
    """Orthogonalize a matrix U S Vᵀ approximately: return U Vᵀ with singular values near 1.

    The iteration is X ← a X + (b X Xᵀ + c (X Xᵀ)²) X on the smaller side, and starts from the matrix over its norm. For
    a long X several steps are computed from X Xᵀ alone (Amsel et al. 2025, arXiv:2505.16932, Algorithm 4, with
    restarts).

    Args:
        matrix: The matrix, of shape ``(..., rows, columns)``.
        polynomials: The coefficients (a, b, c) of each step.
        eps: The smallest divisor that normalizes the matrix.
        products: The dtype to which every product is rounded. Defaults to that of the matrix, which the result has.
    """
    products = products or matrix.dtype
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / torch.clamp(frobenius_norm(x), min=eps)
    x = _rounded(_cast(x, _held_dtype(products, x.device)), products)
    steps_per_product = _STEPS_PER_PRODUCT_16_BITS if products in HALVES else _STEPS_PER_PRODUCT
    num_steps = steps_per_product if x.shape[-1] > _LONG_RATIO * x.shape[-2] else 1
    for start in range(0, len(polynomials), num_steps):
        steps = polynomials[start : start + num_steps]
        if _fuses_sums(x, products) and not any(isinstance(number, Tensor) for number in itertools.chain(*steps)):
            x = _fused_steps(x, steps)
        else:
            x = _rounded(_left_factor(_rounded(gram(x), products), steps, products) @ x, products)
    x = _cast(x, matrix.dtype)
    return x.mT if tall else x


def _held_dtype(products: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of tensors that hold products rounded to a dtype: a CPU multiplies in float32."""
    return torch.float32 if products in HALVES and device.type == "cpu" else products


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in a dtype, without a call if it has it: under vmap such a call takes microseconds."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor rounded to a dtype, in its own dtype."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype).to(tensor.dtype)


def frobenius_norm(matrix: Tensor) -> Tensor:
    """Return the norm of a matrix, of shape (..., 1, 1), even if squares are too large or too small for the dtype."""
    scale = as_divisor(_largest(matrix))
    return scale * torch.linalg.matrix_norm(matrix / scale, keepdim=True)


def _largest(matrix: Tensor) -> Tensor:
    """Return the size of the largest element, of shape (..., 1, 1)."""
    if matrix.device.type == "cpu":  # where the norm below takes five times as long
        return matrix.abs().amax((-2, -1), keepdim=True)
    return torch.linalg.vector_norm(matrix, torch.inf, dim=(-2, -1), keepdim=True)


def _left_factor(square: Tensor, polynomials: Sequence[Sequence[Any]], products: torch.dtype) -> Tensor:
    """Return the matrix by which several steps multiply X from the left, computed from X Xᵀ alone."""
    product = factor = _rounded(_quadratic(square, polynomials[0]), products)
    for polynomial in polynomials[1:]:
        square = _rounded(_rounded(factor @ square, products) @ factor, products)  # X Xᵀ after the last step
        factor = _rounded(_quadratic(square, polynomial), products)
        product = _rounded(factor @ product, products)
    return product


def _quadratic(square: Tensor, polynomial: Sequence[Any]) -> Tensor:
    """Return the matrix by which one step multiplies X: a + b X Xᵀ + c (X Xᵀ)²."""
    a, b, c = polynomial
    wide = torch.float32 if square.dtype in HALVES else square.dtype  # so that the sums are rounded once
    identity = torch.eye(square.shape[-1], dtype=wide, device=square.device)
    return _cast(a * identity + b * _cast(square, wide) + c * _cast(gram(square), wide), square.dtype)


def _fuses_sums(x: Tensor, products: torch.dtype) -> bool:
    """Return True if sums are cheaper as parts of products: not where products are symmetric, or rounded by themselves.

    Small matrices gain on a CPU, too, where calls cost more than numbers.
    """
    return x.dim() <= 3 and x.dtype == products and not _exploits_symmetry(x)


def _fused_steps(x: Tensor, polynomials: Sequence[Sequence[float]]) -> Tensor:
    """Return X after several steps, with sums as parts of products, so that they cost nothing and are rounded once.

    A step multiplies X by a I + Z. The identity is not added to Z: the diagonal would be rounded twice, which makes the
    error three times as large in 16 bits. Only the first of several steps needs the sum, with half of that effect.
    """
    multiply_add = torch.baddbmm if x.dim() == 3 else torch.addmm
    (a, b, c), *later = polynomials
    square = x @ x.mT
    z = multiply_add(square, square, square, beta=b, alpha=c)
    if not later:
        return multiply_add(x, z, x, beta=a)
    factor = z.clone()
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    for polynomial in later:
        half = multiply_add(square, square, z, beta=a)
        square = multiply_add(half, z, half, beta=a)  # X Xᵀ after the last step
        a, b, c = polynomial
        z = multiply_add(square, square, square, beta=b, alpha=c)
        factor = multiply_add(factor, z, factor, beta=a)
    return factor @ x


def inverse_root_from_eigenpairs(
    vectors: Tensor, values: Tensor, order: int, dtype: torch.dtype, scale: Tensor
) -> Tensor:
    """Return A^(-1/order) of a positive semi-definite matrix A with these eigenvectors (columns).

    `values` are its eigenvalues over `scale`, of shape (..., 1, 1), and `dtype` is that of A. Eigenvalues that it
    cannot distinguish from zero, and may even make negative, are raised to the smallest that it can: their inverses
    would be noise that is far larger than all other elements.
    """
    limits, unit = torch.finfo(dtype), scale.squeeze(-1)
    smallest = values.amax(-1, keepdim=True) * (limits.eps * values.shape[-1])
    powers = torch.maximum(values, torch.maximum(smallest, limits.tiny / unit)) ** (-0.5 / order)
    return gram(vectors * (powers * unit ** (-0.5 / order)).unsqueeze(-2)).to(dtype)


def inverse_root(matrix: Tensor, order: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return A^(-1/order) of a positive semi-definite matrix, from eigenvectors computed in `dtype`.

    The default is float64, since small eigenvalues have the largest effect.
    """
    wide, scale = normalized(matrix.to(dtype))
    values, vectors = eigh(wide)
    return inverse_root_from_eigenpairs(vectors, values, order, matrix.dtype, scale)


def normalized(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix over a power of two, and this power, of shape (..., 1, 1).

    The elements are then below 2, so neither its eigenvalues nor products with it overflow, and no digit is lost.
    """
    exponent = torch.frexp(_largest(matrix)).exponent
    scale = torch.ldexp(torch.ones_like(exponent, dtype=matrix.dtype), exponent - 1)
    return matrix / scale, scale


def eigenvectors(matrix: Tensor) -> Tensor:
    """Return the eigenvectors of a symmetric matrix, as columns in descending order of eigenvalues."""
    return eigh(matrix)[1].flip(-1)


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues and eigenvectors of a symmetric matrix; NaN if it is not finite."""
    nonfinite = has_nonfinite(matrix)
    values, vectors = torch.linalg.eigh(matrix.masked_fill(nonfinite, 0.0))
    return values.masked_fill(nonfinite.squeeze(-1), torch.nan), vectors.masked_fill(nonfinite, torch.nan)


def has_nonfinite(matrix: Tensor) -> Tensor:
    """Return a mask of the matrices with NaN or inf, for which `torch.linalg` would raise in the middle of a step."""
    return ~matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)


def rayleigh_quotients(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Return vᵀ A v of each column v: its eigenvalue, if v is an eigenvector of norm 1."""
    return (vectors * (matrix @ vectors)).sum(-2)


def power_iteration(basis: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Update eigenvectors for a changed matrix by one power iteration.

    Returns the new eigenvectors and the permutation that sorts the old ones by descending estimates of eigenvalues.
    """
    product = (matrix / as_divisor(_largest(matrix))) @ basis  # so that no number is near the limits of a dtype
    order = torch.argsort((basis * product).sum(-2), descending=True)
    columns = torch.take_along_dim(product, order.unsqueeze(-2), -1)
    # The Q of a QR decomposition. `torch.linalg.qr` would compute R too, which takes a tenth to a third of its time.
    return torch.linalg.householder_product(*torch.geqrf(columns)), order


def mode_product(tensor: Tensor, matrix: Tensor, dim: int) -> Tensor:
    """Multiply a tensor along one dimension by the transpose of a matrix: Σ_i t[.., i, ..] m[i, j]."""
    return torch.tensordot(tensor, matrix, dims=([dim], [0])).movedim(-1, dim)


def _exploits_symmetry(x: Tensor) -> bool:
    """Return True if half of X Xᵀ takes less time than all of it: not for few rows. Accelerators were not measured."""
    return x.shape[-2] >= 2 * STRIP_ROWS and x.device.type == "cpu"


def _strips(x: Tensor, strip_rows: int = STRIP_ROWS) -> Iterator[tuple[slice, slice, slice]]:
    """Yield strips of X Xᵀ that reach from the left past the diagonal: (rows, columns, columns to mirror)."""
    for first in range(0, x.shape[-2], strip_rows):
        yield slice(first, first + strip_rows), slice(0, first + strip_rows), slice(0, first)


def gram(x: Tensor) -> Tensor:
    """Return X Xᵀ. Little more than half of it is computed if that takes less time."""
    return gram_by_strips(x) if _exploits_symmetry(x) else x @ x.mT


def gram_by_strips(x: Tensor, strip_rows: int = STRIP_ROWS) -> Tensor:
    """Return X Xᵀ, computed in strips of rows that end at the diagonal; the rest is mirrored."""
    product = x.new_empty(*x.shape[:-1], x.shape[-2])
    for rows, columns, mirrored in _strips(x, strip_rows):
        strip = x[..., rows, :] @ x[..., columns, :].mT
        product[..., rows, columns] = strip
        product[..., mirrored, rows] = strip[..., mirrored].mT
    return product


def unfold(tensor: Tensor, dim: int) -> Tensor:
    """Return a tensor as a matrix with a row for each index along one dimension: the mode unfolding."""
    return tensor.movedim(dim, 0).reshape(tensor.shape[dim], -1)


def mode_gram(tensor: Tensor, dim: int) -> Tensor:
    """Return the product of a tensor with itself, summed over all dimensions but one."""
    return gram(unfold(tensor, dim))


def averaged_mode_gram(mean: Tensor, tensor: Tensor, dim: int, keep: Any, fresh: Any) -> Tensor:
    """Return `keep` times a symmetric matrix plus `fresh` times `mode_gram`, without the latter in memory.

    A result that is too large for the dtype is scaled down to the largest that is not: its eigenvectors stay.
    """
    x = unfold(tensor, dim)
    share = _representable_share(mean, x, keep, fresh)
    result, fresh = share * keep * mean, share * fresh
    if not _exploits_symmetry(x):
        return result.addmm_(fresh * x, x.mT)
    for rows, columns, mirrored in _strips(x):
        result[rows, columns].addmm_(fresh * x[rows], x[columns].mT)
        result[mirrored, rows] = result[rows, mirrored].mT
    return result


def _representable_share(mean: Tensor, x: Tensor, keep: Any, fresh: Any) -> Tensor:
    """Return the factor, at most 1, that brings an averaged gram matrix of `x` into the range of its dtype.

    No element of such a matrix is larger than the largest on its diagonal.
    """
    largest = torch.finfo(mean.dtype).max
    squares = torch.linalg.vector_norm(x * largest**-0.5, dim=-1) ** 2  # of the rows, as a share of the largest number
    diagonal = keep * (mean.diagonal() / largest) + fresh * squares
    return torch.clamp(_LARGEST_DIAGONAL / diagonal.amax(), max=1.0)


def matrix_per_dim(
    name: str,
    *,
    unit: str,
    key: str,
    dims: Callable[[Any, torch.Size], Sequence[int]],
    init: Callable[[Any, int, Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """Declare a square matrix for each of the dimensions `dims(rule, shape)`: `name0`, `name1`, ...

    `init(rule, size, param)` is its initial value, by default zero. A 0-D parameter may count as one dimension of size
    1.
    """

    def declared(dim: int) -> Any:
        def size(shape: torch.Size) -> int:
            return shape[dim] if shape else 1

        def shape_of(rule: Any, shape: torch.Size) -> torch.Size:
            return torch.Size([size(shape), size(shape)])

        def exists(rule: Any, shape: torch.Size) -> bool:
            return dim in dims(rule, shape)

        def initial(rule: Any, param: Tensor) -> Tensor:
            return init(rule, size(param.shape), param) if init else param.new_zeros(shape_of(rule, param.shape))

        return of_shape(shape_of, unit=unit, key=f"{key}_{dim}", when=exists, init=initial)

    return {f"{name}{dim}": declared(dim) for dim in range(MAX_DIMS)}
