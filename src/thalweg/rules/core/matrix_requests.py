"""Requests for operations on whole matrices, which the engine answers for many matrices at once.

A rule does not orthogonalize a matrix by itself. It yields a request and receives the result, because only the engine
knows the other matrices of the step. Those of one shape, whatever their parameters, are answered as one stack::

    part = yield Orthogonal(ahead, polynomials, eps)
    roots = yield OperationGroup([InverseRoot(rows, 4), InverseRoot(columns, 4)])       a tuple of results

The operations are in `thalweg.rules.math.operations`. Requests may be answered one by one: the results are equal up to
the last digits.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor


class MatrixRequest(ABC):
    """The base class of requests for operations on matrices. Abstract.

    Attributes:
        over: ``"tensor"``: such a request concerns the tensor at hand alone, as reductions over it do.
    """

    over: Literal["tensor", "model"] = "tensor"

    @property
    @abstractmethod
    def operations(self) -> "Sequence[MatrixOperation]":
        """The operations that are requested."""

    @abstractmethod
    def result(self, results: Sequence[Any]) -> Any:
        """Return what the rule receives, given the result of each operation."""


class MatrixOperation(MatrixRequest):
    """The base class of operations on one matrix. Abstract.

    Operations of one class whose settings are equal, and whose operands have equal shapes, dtypes and devices, may be
    computed as one: with the operands stacked, so that the first dimension counts operations.
    """

    @property
    def operations(self) -> "Sequence[MatrixOperation]":
        """This operation alone."""
        return (self,)

    def result(self, results: Sequence[Any]) -> Any:
        """Return the result of this operation."""
        return results[0]

    @property
    @abstractmethod
    def operands(self) -> tuple[Tensor, ...]:
        """The matrices that are computed with, each of two dimensions; the first has no more rows than columns."""

    @property
    @abstractmethod
    def settings(self) -> Hashable:
        """All arguments other than matrices."""

    @abstractmethod
    def compute(self, *operands: Tensor) -> tuple[Tensor, ...]:
        """Compute the operation on its operands, or on stacks of operands of several operations."""

    def finish(self, *computed: Tensor) -> Any:
        """Return the result of this operation, given its part of what ``compute`` returned."""
        return computed[0]


@dataclass(frozen=True)
class OperationGroup(MatrixRequest):
    """A request for several operations at once, so that they may be computed as one.

    The result is a tuple: the result of each operation.

    Attributes:
        members: The operations. There may be none.
    """

    members: Sequence[MatrixOperation]

    @property
    def operations(self) -> Sequence[MatrixOperation]:
        """The operations of the group."""
        return self.members

    def result(self, results: Sequence[Any]) -> tuple[Any, ...]:
        """Return the results of all operations."""
        return tuple(results)
