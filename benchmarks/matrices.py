"""What a step of the rules of matrices costs, beside torch's Muon and pytorch_optimizer's SOAP and Shampoo.

`python benchmarks/matrices.py` writes `benchmarks/records/matrices.json`; six minutes on two cores, for which
`make rivals` must have been run. The matrices are those of layers of GPT-2, or many small ones of one shape, for which
the batch is set beside the loop. Muon is measured with either polynomials, and with how near each comes to 1. SOAP and
Shampoo are timed over a whole cycle, ten steps, at the end of which they turn their directions or take their roots.
Rounds are interleaved.
"""

import importlib
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import optim
from thalweg.bench.bench import machine

RECORD = Path(__file__).parent / "records" / "matrices.json"
CYCLE = 10


def layer(width: int) -> list[tuple[int, int]]:
    """The hidden matrices of a layer of GPT-2."""
    return [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]


def entrants() -> list[dict[str, Any]]:
    theirs = importlib.import_module("pytorch_optimizer")
    return [
        {
            "rule": "muon",
            "width": 768,
            "layers": 3,
            "steps": 1,
            "rounds": 5,
            "made": {"thalweg": optim.Muon, "torch.optim": torch.optim.Muon},
        },
        {
            "rule": "muon",
            "polynomials": "polar-express",
            "width": 768,
            "layers": 3,
            "steps": 1,
            "rounds": 5,
            "made": {"thalweg": partial(optim.Muon, polynomials="polar-express"), "torch.optim": torch.optim.Muon},
        },
        *(
            {
                "rule": "muon",
                "width": width,
                "square": 48,
                "steps": 5,
                "rounds": 11,
                "made": {"thalweg": optim.Muon, "loop": partial(optim.Muon, way="loop")},
            }
            for width in (32, 64, 96)
        ),
        {
            "rule": "soap",
            "width": 384,
            "layers": 1,
            "steps": CYCLE,
            "rounds": 5,
            "made": {
                "thalweg": partial(optim.SOAP, update_every=CYCLE),
                "pytorch_optimizer": partial(theirs.SOAP, precondition_frequency=CYCLE),
            },
        },
        {
            "rule": "shampoo",
            "width": 384,
            "layers": 1,
            "steps": CYCLE,
            "rounds": 3,
            "made": {
                "thalweg": partial(optim.Shampoo, update_every=CYCLE),
                "pytorch_optimizer": partial(theirs.Shampoo, preconditioning_compute_steps=CYCLE),
            },
        },
    ]


def parameters(entry: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(0)
    width = entry["width"]
    shapes = [(width, width)] * entry["square"] if "square" in entry else layer(width) * entry["layers"]
    return [nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]


def timed(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: int) -> float:
    """The seconds of so many steps, without those of making gradients."""
    taken = 0.0
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn_like(param)
        began = time.perf_counter()
        optimizer.step()
        taken += time.perf_counter() - began
    return taken


def off_orthogonal(make: Callable[..., torch.optim.Optimizer]) -> float:
    """How far the singular values of a step of Muon are from one another's mean: their spread over it."""
    param = nn.Parameter(torch.zeros(768, 3072))
    param.grad = torch.randn(768, 3072, generator=torch.Generator().manual_seed(0))
    make([param], lr=1.0, weight_decay=0.0).step()
    values = torch.linalg.svdvals(param.detach())
    return float(values.std() / values.mean())


def measured(entry: dict[str, Any]) -> dict[str, Any]:
    runs = {}
    for name, make in entry["made"].items():
        params = parameters(entry)
        runs[name] = (make(params), params)
        timed(*runs[name], 1)  # the first step of SOAP and Shampoo makes what the others keep
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(entry["rounds"]):
        for name, (optimizer, params) in runs.items():
            seconds[name].append(timed(optimizer, params, entry["steps"]) / entry["steps"])
    ours, theirs = seconds.values()
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    shown = {key: value for key, value in entry.items() if key != "made"}
    return shown | {
        "against": list(runs)[1],
        "ms": {name: 1e3 * statistics.median(each) for name, each in seconds.items()},
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "ratios": [ratios[0], ratios[-1]],
    }


def main() -> None:
    found = []
    for entry in entrants():
        found.append(measured(entry))
        if entry["rule"] == "muon" and "layers" in entry:
            found[-1]["spread"] = {name: off_orthogonal(make) for name, make in entry["made"].items()}
        print(found[-1], flush=True)
    RECORD.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
