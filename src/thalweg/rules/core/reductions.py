"""Reductions: what a rule asks of a whole tensor, or of the whole model.

A rule never sums by itself: it yields a request and is sent the answer, because only the engine knows whether the
tensor at hand is all of it, a shard, or one member of a population.

    norm = yield Sum(grad * grad)                   over this tensor: a 0-D tensor
    rows = yield Mean(grad * grad, dim=-1)          over a dimension, or several, which stay with size 1
    norm = yield Sum(grad * grad, over="model")     over every tensor that takes part in the step

All tensors advance together, a request at a time. A request over the model waits until every tensor has made one, or
has ended: so some tensors may ask for more than others do before it.
"""

import inspect
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor


@dataclass(frozen=True)
class Sum:
    """The sum of a tensor, along `dim` or entirely (then it is 0-d); `over="model"` adds up the sums of all tensors."""

    of: Tensor
    dim: int | tuple[int, ...] | None = None
    over: Literal["tensor", "model"] = "tensor"


@dataclass(frozen=True)
class Mean:
    """The mean of a tensor, along `dim` or entirely; `over="model"` is the mean of all elements of all tensors."""

    of: Tensor
    dim: int | tuple[int, ...] | None = None
    over: Literal["tensor", "model"] = "tensor"


@dataclass(frozen=True)
class Max:
    """The largest element of a tensor, along `dim` or entirely; `over="model"` is that of all tensors."""

    of: Tensor
    dim: int | tuple[int, ...] | None = None
    over: Literal["tensor", "model"] = "tensor"


Reduction = Sum | Mean | Max
ReductionGenerator = Generator[Reduction, Any, Any]  # a computation that asks on the way


def resolve_reductions(result: Any) -> ReductionGenerator:
    """Run what a `direction` or `apply` returned: a value, or a generator that asks for reductions first."""
    return (yield from result) if inspect.isgenerator(result) else result
