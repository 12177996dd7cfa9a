"""Gradient descent ends at the edge of stability: the sharpness hovers about 2/η (Cohen 2021, arXiv:2103.00065)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import thalweg.optim
from thalweg.tasks.built_in.digits import digits

STEPS, FROM, EVERY = 1500, 750, 50


def measure() -> dict[str, Any]:
    """Return the claim, its setting and the measured values."""
    images, labels = (part[:500] for part in digits().splits.train)  # type: ignore[union-attr,index]
    targets = nn.functional.one_hot(labels, 10).float()
    seen = {}
    for rate in (0.8, 1.6):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
        optimizer = thalweg.optim.SGD(model.parameters(), lr=rate)

        def loss(params: dict[str, Tensor], model: nn.Module = model) -> Tensor:
            return (functional_call(model, params, (images,)) - targets).square().mean()

        ratios = []
        for step in range(1, STEPS + 1):
            optimizer.zero_grad()
            loss(dict(model.named_parameters())).backward()
            optimizer.step()
            if step >= FROM and step % EVERY == 0:
                ratios.append(sharpness(loss, model) * rate / 2)
        seen[f"λη/2 at η={rate}, least"], seen[f"λη/2 at η={rate}, most"] = min(ratios), max(ratios)
    return {
        "claim": "gradient descent ends at the edge of stability, sharpness λ = 2/η",
        "setting": "500 digits, tanh perceptron 64-64-64-10, squared error, full batch, after step 750",
        "seen": seen,
    }


def sharpness(loss: Any, model: nn.Module, rounds: int = 40) -> float:
    """Return the largest eigenvalue of the Hessian, by power iteration."""
    params = {name: param.detach() for name, param in model.named_parameters()}
    gradient = torch.func.grad(loss)
    generator = torch.Generator().manual_seed(1)
    vector = {name: torch.randn(param.shape, generator=generator) for name, param in params.items()}
    size = 1.0
    for _ in range(rounds):
        vector = {name: part / size for name, part in vector.items()}
        vector = torch.func.jvp(gradient, (params,), (vector,))[1]
        size = float(torch.cat([part.flatten() for part in vector.values()]).norm())
    return size
