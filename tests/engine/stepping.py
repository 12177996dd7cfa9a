"""Steps to compare: a case run on a backend, with what makes backends differ."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cases.rules import SHAPES, Case
from thalweg.engine.backends import Backend
from thalweg.engine.eager import flat

# Beside the usual shapes: no element, several buckets, and odd lengths.
ALL_SHAPES = (*SHAPES, (0, 3), (flat.BUCKET_NUMEL_CPU + 17,), (33, 5))


def run_case(
    case: Case,
    backend: Backend | None,
    dtype: torch.dtype,
    *,
    shapes: Sequence[tuple[int, ...]] = ALL_SHAPES,
    transposed: bool = True,
    num_steps: int = 8,
    **options: Any,
) -> list[Tensor]:
    """Return parameters and state after some steps; one parameter joins late, one skips a step."""
    generator = torch.Generator().manual_seed(3)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    params = [draw(shape) for shape in shapes]
    if transposed and shapes is ALL_SHAPES:
        params.append(draw((4, 6)).t())
    for param in params:
        param.requires_grad_()
    optimizer = case.ours(params, **case.settings, backend=backend, **options)
    for step in range(num_steps):
        for k, param in enumerate(params):
            grad = draw(tuple(param.shape))
            skipped = (k == 2 and step < 3) or (k == 0 and step == 4)
            param.grad = None if skipped else grad
        optimizer.step()
    state = [entry for param in params for _, entry in sorted(optimizer.state[param].items())]
    return [param.detach() for param in params] + state


def assert_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    for tensor, reference in zip(actual, expected, strict=True):
        assert tensor.dtype == reference.dtype
        assert tensor.isfinite().all()
        assert torch.equal(tensor, reference)


def take_steps(optimizer: torch.optim.Optimizer, *params: torch.Tensor, num_steps: int = 1) -> None:
    """Take steps with gradients of ones."""
    for _ in range(num_steps):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
