"""Optima in closed form: the best learning rates of gradient descent and the heavy ball on a quadratic."""

import math
from typing import Any

import numpy as np
import torch

import thalweg.optim

CONDITION, STEPS = 100.0, 300


def contraction(lr: float, momentum: float) -> float:
    """Return the factor by which a step shrinks the distance to the optimum, late in a run of our own optimizer."""
    curvatures = torch.logspace(0, -math.log10(CONDITION), 12, dtype=torch.float64)
    point = torch.ones(12, dtype=torch.float64, requires_grad=True)
    optimizer = thalweg.optim.SGD([point], lr=lr, momentum=momentum)
    sizes = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        (0.5 * curvatures * point.square()).sum().backward()
        optimizer.step()
        sizes.append(float(point.detach().norm()))
    return (sizes[-1] / sizes[STEPS // 2]) ** (1 / (STEPS - 1 - STEPS // 2))


def measure() -> dict[str, Any]:
    """Return the claim, its setting and the measured values."""
    largest, least = 1.0, 1 / CONDITION
    descent = 2 / (largest + least)
    root = math.sqrt(CONDITION)
    ball, momentum = 4 / (math.sqrt(largest) + math.sqrt(least)) ** 2, ((root - 1) / (root + 1)) ** 2
    rates = descent * np.linspace(0.9, 1.1, 41)
    best = float(rates[np.argmin([contraction(float(rate), 0.0) for rate in rates])])
    return {
        "claim": "gradient descent is fastest at 2/(L+μ), by (κ-1)/(κ+1) a step; the heavy ball by (√κ-1)/(√κ+1)",
        "setting": f"quadratic with condition number {CONDITION:g}, float64, {STEPS} steps of thalweg.optim.SGD",
        "seen": {
            "gradient descent's best learning rate ÷ 2/(L+μ)": best / descent,
            "its contraction ÷ (κ-1)/(κ+1)": contraction(descent, 0.0) / ((CONDITION - 1) / (CONDITION + 1)),
            "the heavy ball's contraction ÷ (√κ-1)/(√κ+1)": contraction(ball, momentum) / math.sqrt(momentum),
        },
    }
