"""SAM by its definition, and the ways to give its optimizer the second gradients."""

from typing import Any

import torch
from torch import Tensor, nn

from thalweg import optim
from thalweg.optim import RuleOptimizer, optimizer_for

BATCHES = torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


RHO = 0.3


def make_model(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)


def make(name: str, model: nn.Module, **settings: Any) -> RuleOptimizer:
    if "muon" in name:
        return optim.route(model, name, lr=0.1).optimizer(backend="loop")
    return optimizer_for(name)(model.parameters(), lr=0.1, rho=RHO, backend="loop", **settings)


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    batch = batch.to(model[0].weight.dtype)
    return (model(batch) - batch[..., :2].sin()).square().mean()


def backward(model: nn.Module, batches: Tensor = BATCHES, scale: float = 1.0) -> float:
    """Accumulate the gradients of the mean loss of micro-batches."""
    total = 0.0
    for batch in batches:
        loss = loss_of(model, batch) / len(batches)
        (scale * loss).backward()
        total += loss.item()
    return total


def values_of(model: nn.Module) -> Tensor:
    return torch.cat([param.detach().flatten().clone() for param in model.parameters()])


def sam_by_definition(steps: int) -> Tensor:
    """Return the parameters after steps of SAM around SGD on all batches."""
    model = make_model()
    for _ in range(steps):
        params = list(model.parameters())
        grads = torch.autograd.grad(loss_of(model, BATCHES.flatten(0, 1)), params)
        norm = torch.cat([grad.flatten() for grad in grads]).norm()
        with torch.no_grad():
            for param, grad in zip(params, grads, strict=True):
                param += RHO * grad / norm
        second = torch.autograd.grad(loss_of(model, BATCHES.flatten(0, 1)), params)
        with torch.no_grad():
            for param, grad, step in zip(params, grads, second, strict=True):
                param += -RHO * grad / norm - 0.1 * step
    return values_of(model)
