"""Operations on whole matrices that rules request: orthogonal parts, eigenbases and inverse roots."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.core.matrix_requests import MatrixOperation
from thalweg.rules.math.matrices import (
    eigenvectors,
    inverse_root,
    newton_schulz,
    power_iteration,
    product_dtype,
)


@dataclass(frozen=True)
class Orthogonal(MatrixOperation):
    """A request for the orthogonal part U Vᵀ of a matrix U S Vᵀ, approximated by Newton's and Schulz' iteration.

    A matrix and the transpose of another may be computed as one.

    Attributes:
        matrix: The matrix, of shape ``(rows, columns)``.
        polynomials: The coefficients (a, b, c) of each step.
        eps: The smallest divisor that normalizes the matrix.
        products: The precision of the products: ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``. The result
            has the dtype of the matrix.

    Example:
        >>> import torch
        >>> from thalweg.engine.eager.loop import run_in_lockstep
        >>> from thalweg.rules.math.polar_express import polar_express
        >>> def orthogonalized(matrix):
        ...     return (yield Orthogonal(matrix, polar_express(9), eps=1e-7))
        >>> (part,) = run_in_lockstep([orthogonalized(torch.tensor([[0.0, 3.0], [-2.0, 0.0]]))])
        >>> part.round(decimals=3).abs()
        tensor([[0., 1.],
                [1., 0.]])
    """

    matrix: Tensor
    polynomials: Sequence[Sequence[Any]]
    eps: Any
    products: str = "auto"

    @property
    def _is_tall(self) -> bool:
        return self.matrix.shape[0] > self.matrix.shape[1]

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The matrix, or its transpose if it has more rows than columns."""
        return (self.matrix.mT if self._is_tall else self.matrix,)

    @property
    def settings(self) -> Hashable:
        """The polynomials, the smallest divisor and the precision."""
        return tuple(map(_hashable_numbers, self.polynomials)), _hashable_numbers((self.eps,)), self.products

    def compute(self, *operands: Tensor) -> tuple[Tensor, ...]:
        """Return the orthogonal part."""
        (matrix,) = operands
        return (newton_schulz(matrix, self.polynomials, self.eps, product_dtype(self.products, matrix)),)

    def finish(self, *computed: Tensor) -> Tensor:
        """Return the orthogonal part in the shape of the matrix."""
        return computed[0].mT if self._is_tall else computed[0]


@dataclass(frozen=True)
class Eigenbasis(MatrixOperation):
    """A request for the eigenvectors of a symmetric matrix, as columns in descending order of eigenvalues.

    Attributes:
        matrix: The matrix. If it is not finite, the result is NaN.
        dtype: The dtype in which eigenvectors are computed; None for that of the matrix, which the result always has.
    """

    matrix: Tensor
    dtype: torch.dtype | None = None

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The matrix."""
        return (self.matrix,)

    @property
    def settings(self) -> Hashable:
        """The dtype of the computation."""
        return self.dtype

    def compute(self, *operands: Tensor) -> tuple[Tensor, ...]:
        """Return the eigenvectors."""
        (matrix,) = operands
        return (eigenvectors(matrix.to(self.dtype or matrix.dtype)).to(matrix.dtype),)


@dataclass(frozen=True)
class PowerIteration(MatrixOperation):
    """A request for eigenvectors that follow a changed matrix, by one power iteration and QR.

    The result is a pair: the new eigenvectors, as columns, and the permutation that sorts the old ones by descending
    estimates of eigenvalues.

    Attributes:
        basis: The eigenvectors before the change.
        matrix: The changed matrix.
    """

    basis: Tensor
    matrix: Tensor

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The basis and the matrix."""
        return self.basis, self.matrix

    @property
    def settings(self) -> Hashable:
        """There are none."""
        return None

    def compute(self, *operands: Tensor) -> tuple[Tensor, ...]:
        """Return the new eigenvectors and the permutation."""
        basis, matrix = operands
        return power_iteration(basis, matrix)

    def finish(self, *computed: Tensor) -> tuple[Tensor, ...]:
        """Return the new eigenvectors and the permutation."""
        return computed


@dataclass(frozen=True)
class InverseRoot(MatrixOperation):
    """A request for A^(-1/order) of a positive semi-definite matrix A.

    Attributes:
        matrix: The matrix. If it is not finite, the result is NaN.
        order: The order of the root.
        dtype: The dtype in which eigenvectors are computed. The result has that of the matrix.
    """

    matrix: Tensor
    order: int
    dtype: torch.dtype = torch.float64

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The matrix."""
        return (self.matrix,)

    @property
    def settings(self) -> Hashable:
        """The order and the dtype of the computation."""
        return self.order, self.dtype

    def compute(self, *operands: Tensor) -> tuple[Tensor, ...]:
        """Return the inverse root."""
        (matrix,) = operands
        return (inverse_root(matrix, self.order, self.dtype),)


def _hashable_numbers(numbers: Sequence[Any]) -> Hashable:
    """Return numbers as a key. A tensor is equal to itself only: to read its value could wait for a device."""
    return tuple(id(number) if isinstance(number, Tensor) else number for number in numbers)
