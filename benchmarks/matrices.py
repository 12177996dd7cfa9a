"""What a step of the rules of matrices costs, beside torch's Muon and pytorch_optimizer's SOAP and Shampoo.

`python benchmarks/matrices.py` writes `benchmarks/records/matrices.json`; eight minutes on two cores, for which
`make rivals` must have been run. The matrices are those of layers of GPT-2, or many small ones of one shape, for which
the batch is set beside the loop. Muon is measured with either polynomials, and with how near each comes to 1. SOAP and
Shampoo are timed over a whole cycle, ten steps, at the end of which they turn their directions or take their roots, at
equal settings; choices that only we offer run beside them. Rounds are interleaved.

Products of matrices are counted too, and how many of them a second is set beside what the machine does at most.
Eigenvalues and singular values are not: they are what keeps Shampoo from its products.
"""

import importlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Products:
    """The products of matrices in a cycle of an algorithm, for each side that it turns or scales.

    `along` are those of a matrix with the square one of a side, in every step and in the last of a cycle; `gram` is 1
    for a whole matrix times itself in every step, 1/2 for half of it; `cubes` times the side's cube are spent in the
    last step of a cycle. A product with the square matrix of a side takes 2 · elements · side operations.
    """

    along: int
    gram: float
    cubes: float
    along_last: int = 0
    one_sided: bool = False

    def of_step(self, shape: tuple[int, int]) -> float:
        """Floating-point operations of a step, on average over a cycle."""
        rows, columns = shape
        sides = [min(shape)] if self.one_sided else [rows, columns]
        products = self.along + self.gram + self.along_last / CYCLE
        return sum(2 * rows * columns * side * products + self.cubes * side**3 / CYCLE for side in sides)


# The matrix times its basis, and Householder's Q: 4/3 to find the reflections, 4/3 to multiply them.
TURN = 2 + 8 / 3
SOAP = {
    "thalweg": Products(along=2, gram=0.5, along_last=2, cubes=TURN),
    "pytorch_optimizer": Products(along=3, gram=1, cubes=TURN),
    "one-sided": Products(along=2, gram=0.5, along_last=2, cubes=TURN, one_sided=True),
}
SHAMPOO = {
    "thalweg": Products(along=1, gram=0.5, cubes=1),
    "pytorch_optimizer": Products(along=1, gram=1, cubes=2),
    "native roots": Products(along=1, gram=0.5, cubes=1),
    "tracked roots": Products(along=1, gram=0.5, cubes=1 + 2 + TURN),
}


def entrants() -> list[dict[str, Any]]:
    theirs = importlib.import_module("pytorch_optimizer")
    soap, shampoo = (partial(made, update_every=CYCLE) for made in (optim.SOAP, optim.Shampoo))
    soaps = {
        "thalweg": soap,
        "pytorch_optimizer": partial(theirs.SOAP, precondition_frequency=CYCLE),
        "one-sided": partial(soap, one_sided=True),
    }
    shampoos = {
        "thalweg": shampoo,
        "pytorch_optimizer": partial(theirs.Shampoo, preconditioning_compute_steps=CYCLE),
        "native roots": partial(shampoo, roots="native"),
        "tracked roots": partial(shampoo, roots="tracked"),
    }
    muons = {"thalweg": optim.Muon, "torch.optim": torch.optim.Muon}
    return [
        {"rule": "muon", "width": 768, "layers": 3, "steps": 1, "rounds": 5, "made": muons},
        {
            "rule": "muon",
            "polynomials": "polar-express",
            "width": 768,
            "layers": 3,
            "steps": 1,
            "rounds": 5,
            "made": muons | {"thalweg": partial(optim.Muon, polynomials="polar-express")},
        },
        *(
            {
                "rule": "muon",
                "width": width,
                "square": 48,
                "steps": 5,
                "rounds": 11,
                "made": {"thalweg": optim.Muon, "loop": partial(optim.Muon, backend="loop")},
            }
            for width in (32, 64, 96)
        ),
        *(
            {"rule": rule, "width": width, "layers": 1, "steps": CYCLE, "rounds": rounds, "made": made, "products": of}
            for rule, width, rounds, made, of in (
                ("soap", 384, 5, soaps, SOAP),
                ("soap", 768, 3, soaps, SOAP),
                ("shampoo", 384, 3, shampoos, SHAMPOO),
                ("shampoo", 768, 2, shampoos, SHAMPOO),
            )
        ),
    ]


def peak() -> float:
    """The most operations a second that a product of two large matrices was seen to do here."""
    one, other = torch.randn(2, 3072, 3072)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(one, other)
        seconds.append(time.perf_counter() - began)
    return 2 * 3072**3 / min(seconds)


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
    ours, against, *choices = seconds
    found = {key: value for key, value in entry.items() if key not in ("made", "products")} | {
        "against": against,
        "ms": {name: 1e3 * statistics.median(seconds[name]) for name in (ours, against)},
        **compared(seconds[ours], seconds[against]),
    }
    if choices:
        found["choices"] = {
            name: {"ms": 1e3 * statistics.median(seconds[name])} | compared(seconds[name], seconds[against])
            for name in choices
        }
    if "products" in entry:
        found["products"] = {name: operations(entry, name) for name in seconds}
        found["products_a_second"] = {
            name: operations(entry, name) / statistics.median(each) for name, each in seconds.items()
        }
    return found


def compared(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """The ratio of medians, and the least and greatest ratio of a round."""
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    return {"ratio": statistics.median(ours) / statistics.median(theirs), "ratios": [ratios[0], ratios[-1]]}


def operations(entry: dict[str, Any], name: str) -> float:
    """Floating-point operations of the products in a step."""
    return entry["layers"] * sum(entry["products"][name].of_step(shape) for shape in layer(entry["width"]))


def main() -> None:
    found, fastest = [], peak()
    for entry in entrants():
        found.append(measured(entry))
        fastest = max(fastest, peak())
        if entry["rule"] == "muon" and "layers" in entry:
            found[-1]["spread"] = {name: off_orthogonal(make) for name, make in entry["made"].items()}
        print(found[-1], flush=True)
    record = {"machine": machine(), "products_a_second_at_most": fastest, "rows": found}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
