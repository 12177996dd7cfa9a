"""Parameters and gradients for optimizers that are compared to the bit."""

from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg import optim

Shapes = Sequence[tuple[int, ...]]


def parameters(shapes: Shapes, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def set_gradients(params: Sequence[Tensor], step: int) -> None:
    """Write the gradients of a step, always to the same memory."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for param in params:
            grad = torch.randn(param.shape, generator=generator).to(param.dtype)
            param.grad = grad if param.grad is None else param.grad.copy_(grad)


def assert_equal(one: optim.RuleOptimizer, other: optim.RuleOptimizer) -> None:
    """Check that parameters and state are equal, to the bit."""
    pairs = [
        zip(a["params"], b["params"], strict=True) for a, b in zip(one.param_groups, other.param_groups, strict=True)
    ]
    for a, b in (pair for group in pairs for pair in group):
        assert torch.equal(a, b)
        assert one.state[a].keys() == other.state[b].keys()
        for key, entry in one.state[a].items():
            assert torch.equal(entry, other.state[b][key]), key
