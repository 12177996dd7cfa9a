"""Steps to compare: a case run some way, with what makes ways differ."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cases.rules import SHAPES, Case
from thalweg.engine.backends import Backend
from thalweg.engine.eager import flat

# Beside the usual ones: none at all, one that fills several buckets, and odd lengths.
ALL_SHAPES = (*SHAPES, (0, 3), (flat._ON_CPU + 17,), (33, 5))


def taken(
    case: Case,
    backend: Backend | None,
    dtype: torch.dtype,
    *,
    shapes: Sequence[tuple[int, ...]] = ALL_SHAPES,
    transposed: bool = True,
    num_steps: int = 8,
    **options: Any,
) -> list[Tensor]:
    """Parameters and state after some steps; one parameter joins late, one rests now and then."""
    generator = torch.Generator().manual_seed(3)

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    params = [drawn(shape) for shape in shapes]
    if transposed and shapes is ALL_SHAPES:
        params.append(drawn((4, 6)).t())
    for param in params:
        param.requires_grad_()
    optimizer = case.optimizer(params, **case.settings, backend=backend, **options)
    for step in range(num_steps):
        for k, param in enumerate(params):
            grad = drawn(tuple(param.shape))
            noop_on_zero_grad = (k == 2 and step < 3) or (k == 0 and step == 4)
            param.grad = None if noop_on_zero_grad else grad
        optimizer.step()
    remembered = [entry for param in params for _, entry in sorted(optimizer.state[param].items())]
    return [param.detach() for param in params] + remembered


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.isfinite().all()
        assert torch.equal(one, other)


def stepped(optimizer: torch.optim.Optimizer, *params: torch.Tensor, num_steps: int = 1) -> None:
    for _ in range(num_steps):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
