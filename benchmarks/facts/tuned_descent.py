"""Tuned learning rates beside those that are best for this number of steps, on a quadratic."""

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from thalweg import Task
from thalweg.comparison import compare

CONDITION, STEPS, DIMENSIONS, TRIALS = 100.0, 100, 20, 64
CURVATURES = torch.logspace(0, -math.log10(CONDITION), DIMENSIONS, dtype=torch.float64)


class Bowl(nn.Module):
    """½ Σ λ θ², always from the same start, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.ones(DIMENSIONS, dtype=torch.float64))

    def forward(self) -> Tensor:
        return 0.5 * (CURVATURES * self.point.square()).sum()


def height(lr: float, momentum: float) -> float:
    """Return the height of the heavy ball (gradient descent at momentum 0) after all steps, computed in numpy."""
    curvatures = CURVATURES.numpy()
    point, buffer = np.ones(DIMENSIONS), np.zeros(DIMENSIONS)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(STEPS):
            buffer = momentum * buffer + curvatures * point
            point = point - lr * buffer
        return float(0.5 * (curvatures * point**2).sum())


def best(momentum: float | None) -> tuple[float, float, float]:
    """Return the learning rate, the momentum and the least height after all steps: a grid, then Nelder-Mead."""
    fixed = [momentum] if momentum is not None else [1 - share for share in np.geomspace(0.5, 0.01, 120)]
    start = min(((lr, beta) for beta in fixed for lr in np.geomspace(0.3, 6.0, 400)), key=lambda pair: height(*pair))

    def log_height(point: np.ndarray) -> float:
        value = height(math.exp(point[0]), start[1] if momentum is not None else float(point[1]))
        return math.log(value) if math.isfinite(value) and value > 0 else 1e3

    first = [math.log(start[0])] if momentum is not None else [math.log(start[0]), start[1]]
    result = minimize(log_height, first, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10})
    return math.exp(result.x[0]), start[1] if momentum is not None else float(result.x[1]), math.exp(result.fun)


def measure() -> dict[str, Any]:
    """Return the claim, its setting and the measured values."""
    task = Task(model=Bowl, loss=lambda model, batch: model(), passes=STEPS, optimum=0.0, name="bowl")
    seen: dict[str, Any] = {}
    root = math.sqrt(CONDITION)
    classic = round(((root - 1) / (root + 1)) ** 2, 4)
    for label, contender, momentum in (
        ("gradient descent", "sgd", 0.0),
        (f"the heavy ball at β={classic:g}", f"momentum:momentum={classic}", classic),
        ("the heavy ball, β tuned too", "momentum", None),
    ):
        lr, beta, least = best(momentum)
        tuned = compare(task, [contender], budget=f"{TRIALS}trials", schedule="constant", refine=True).contenders[0]
        seen[f"{label}: tuned lr ÷ best"] = tuned.settings["lr"] / lr
        if momentum is None:
            seen[f"{label}: tuned 1-β ÷ best"] = (1 - tuned.settings["momentum"]) / (1 - beta)
        seen[f"{label}: height ÷ least"] = height(tuned.settings["lr"], tuned.settings["momentum"]) / least
    return {
        "claim": "what is tuned is what is best in exactly so many steps",
        "setting": f"quadratic, κ = {CONDITION:g}, float64, {STEPS} steps, {TRIALS} trials, half of them refined",
        "seen": seen,
    }
