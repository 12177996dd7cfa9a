"""Reductions: sums, means, norms and maxima over a whole tensor or the whole model.

A rule does not reduce a tensor by itself. It yields a request and receives the result, because only the engine knows
whether the tensor at hand is the whole parameter, a shard of it, or one member of a population::

    total = yield Sum(grad.abs())                   over this tensor: a 0-D tensor
    rows = yield Mean(grad * grad, dim=-1)          over one or several dimensions, which stay with size 1
    norm = yield Norm(grad, over="model")           over all tensors that take part in the step

All tensors advance together, one request at a time. A request over the model waits until every tensor has made one or
has ended. So some tensors may make more requests over themselves than others before it.

A tensor takes part in a step if it has a gradient. A reduction over the model covers these tensors, of all parameter
groups. If a member of a composite requests it, it covers the tensors of that member alone (see `within_part`).

Rules that keep a history, a stack of tensors for each parameter (L-BFGS), request its inner products as a whole::

    products = yield Products(state.s, grad)        of each tensor of the stack, over the model
    stack = yield Replace(state.s, index, tensor)   the stack with one tensor replaced
"""

import inspect
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from thalweg.rules.core.matrix_requests import MatrixRequest


@dataclass(frozen=True)
class Sum:
    """A request for the sum of a tensor.

    Attributes:
        tensor: The tensor.
        dim: The dimensions to sum over; they stay with size 1. None for all dimensions: the result is 0-D.
        over: ``"tensor"``, or ``"model"`` for the sum over all tensors that take part in the step.
        part: The members of composites that the reduction is limited to, from the outermost; empty for all tensors.

    Example:
        >>> import torch
        >>> from thalweg.engine.eager.loop import run_in_lockstep
        >>> def total(tensor):
        ...     return (yield Sum(tensor.abs()))
        >>> run_in_lockstep([total(torch.tensor([3.0, -4.0]))])
        [tensor(7.)]
    """

    tensor: Tensor
    dim: int | tuple[int, ...] | None = None
    over: Literal["tensor", "model"] = "tensor"
    part: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mean:
    """A request for the mean of a tensor.

    Attributes:
        tensor: The tensor.
        dim: The dimensions to average over; they stay with size 1. None for all dimensions: the result is 0-D.
        over: ``"tensor"``, or ``"model"`` for the mean of all elements of all tensors that take part in the step.
        part: The members of composites that the reduction is limited to, from the outermost; empty for all tensors.
    """

    tensor: Tensor
    dim: int | tuple[int, ...] | None = None
    over: Literal["tensor", "model"] = "tensor"
    part: tuple[str, ...] = ()


@dataclass(frozen=True)
class Max:
    """A request for the largest element of a tensor.

    Attributes:
        tensor: The tensor.
        dim: The dimensions to reduce; they stay with size 1. None for all dimensions: the result is 0-D.
        over: ``"tensor"``, or ``"model"`` for the largest element of all tensors that take part in the step.
        part: The members of composites that the reduction is limited to, from the outermost; empty for all tensors.
    """

    tensor: Tensor
    dim: int | tuple[int, ...] | None = None
    over: Literal["tensor", "model"] = "tensor"
    part: tuple[str, ...] = ()


@dataclass(frozen=True)
class Norm:
    """A request for the Euclidean norm of a tensor, the root of the sum of its squares.

    The squares are made and summed in double precision. In float32 neither numbers near 1e30 nor numbers near 1e-30
    have a square; their norm is right all the same.

    Attributes:
        tensor: The tensor.
        dim: The dimensions of a norm; they stay with size 1. None for all dimensions: the result is 0-D.
        over: ``"tensor"``, or ``"model"`` for the norm of all elements of all tensors that take part in the step.
        part: The members of composites that the reduction is limited to, from the outermost; empty for all tensors.

    Example:
        >>> import torch
        >>> from thalweg.engine.eager.loop import run_in_lockstep
        >>> def norm(tensor):
        ...     return (yield Norm(tensor))
        >>> run_in_lockstep([norm(torch.tensor([3e30, 4e30]))])
        [tensor(5.0000e+30)]
    """

    tensor: Tensor
    dim: int | tuple[int, ...] | None = None
    over: Literal["tensor", "model"] = "tensor"
    part: tuple[str, ...] = ()


@dataclass(frozen=True)
class Products:
    """A request for the inner products of each tensor of a stack with a tensor, or with each tensor of another stack.

    They are made in the dtype of the tensors, summed over the model, and sent in double precision where the device has
    it.

    Attributes:
        stack: The stack, of shape ``(k, *shape)``.
        tensor: A tensor of shape ``shape``, or a stack of shape ``(m, *shape)``. The result has the shape ``(k,)`` or
            ``(k, m)``.
        num_pairs: If both stacks are histories, the number of pairs so far. Pair number n, from 0, is at index n mod k.
            The products of a tensor of `stack` with an older one of `tensor` are not needed, and may be any number.
        over: ``"model"``: the tensors of the step that request it count as one vector.
        part: The members of composites that the products are limited to, from the outermost; empty for all tensors.

    Example:
        >>> import torch
        >>> from thalweg.engine.eager.loop import run_in_lockstep
        >>> def products(stack, tensor):
        ...     return (yield Products(stack, tensor))
        >>> run_in_lockstep([products(torch.eye(2), torch.tensor([3.0, 4.0]))])
        [tensor([3., 4.], dtype=torch.float64)]
    """

    stack: Tensor
    tensor: Tensor
    num_pairs: int | None = None
    over: Literal["model"] = "model"
    part: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replace:
    """A request for a stack in which one tensor is replaced. The engine may write it into the memory of the stack.

    Attributes:
        stack: The stack, a tensor of the state of shape ``(k, *shape)``; it must not be used any more.
        index: The index of the tensor to replace.
        tensor: The new tensor, of shape ``shape``.
        over: ``"tensor"``: the request concerns the tensor at hand alone.
    """

    stack: Tensor
    index: int
    tensor: Tensor
    over: Literal["tensor"] = "tensor"


Reduction = Sum | Mean | Max | Norm
ReductionGenerator = Generator[Reduction, Any, Any]  # yields reductions, receives their results, returns a value

Request = Reduction | Products | Replace | MatrixRequest  # what a rule may request of the engine
RequestGenerator = Generator[Request, Any, Any]  # yields requests, receives their results, returns a value


def resolve_reductions(result: Any) -> RequestGenerator:
    """Run the result of a ``direction`` or ``apply``, which may be a value or a generator of requests.

    Args:
        result: A value, or a generator that yields reductions and matrix operations and returns a value.

    Yields:
        The requests of the generator.

    Returns:
        The value.
    """
    return (yield from result) if inspect.isgenerator(result) else result


def within_part(generator: RequestGenerator, name: str) -> RequestGenerator:
    """Run a generator; limit its reductions over the model to the tensors of one member of a composite.

    Args:
        generator: The step of a tensor by the member.
        name: The name of the member.

    Returns:
        The return value of the generator.
    """
    result = None
    while True:
        try:
            request = generator.send(result)
        except StopIteration as stop:
            return stop.value
        if not isinstance(request, MatrixRequest | Replace) and request.over == "model":
            request = replace(request, part=(name, *request.part))
        result = yield request
