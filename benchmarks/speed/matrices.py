"""The step time of the rules of matrices, beside torch's Muon and pytorch_optimizer's SOAP and Shampoo.

`make rivals` installs the libraries; then `python benchmarks/speed/matrices.py` writes
`benchmarks/records/matrices.json`; eight minutes on two cores. The matrices are those of layers of GPT-2, or many small
ones of one shape, for which the batched backend is compared with the loop. Muon is measured with both polynomials, and
with the spread of the singular values of its step. SOAP and Shampoo are timed over a whole cycle of ten steps, at the
end of which they turn their directions or take their roots, at equal settings; choices that only we offer run beside
them. Rounds are interleaved.

With `--device cuda` the measurements of `device_matrices.py` are made instead, in a minute or two; `--small` tries the
program with toys, on any device, and writes nothing.

The operations in products of matrices are counted too, and their rate is compared with the peak of the machine.
Eigenvalue and singular value decompositions are not counted; they take most of the time of Shampoo.
"""

import argparse
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

from benchmarks.speed import device_matrices
from thalweg import optim
from thalweg.bench.records import machine

RECORD = Path(__file__).parents[1] / "records" / "matrices.json"
CYCLE = 10


def layer(width: int) -> list[tuple[int, int]]:
    """Return the shapes of the hidden matrices of a layer of GPT-2."""
    return [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]


@dataclass(frozen=True)
class Products:
    """The products of matrices in a cycle of an algorithm, for each side that it turns or scales.

    A product with the square matrix of a side takes 2 · elements · side operations.

    Attributes:
        along: Products of a matrix with the square matrix of a side, in every step.
        gram: Products of a matrix with itself in every step: 1 for a whole product, 1/2 for half of it.
        cubes: Operations in the last step of a cycle, in units of the cube of the side.
        along_last: Like ``along``, in the last step of a cycle only.
        one_sided: True if only the smaller side is turned.
    """

    along: int
    gram: float
    cubes: float
    along_last: int = 0
    one_sided: bool = False

    def of_step(self, shape: tuple[int, int]) -> float:
        """Return the floating-point operations of a step, on average over a cycle."""
        rows, columns = shape
        sides = [min(shape)] if self.one_sided else [rows, columns]
        products = self.along + self.gram + self.along_last / CYCLE
        return sum(2 * rows * columns * side * products + self.cubes * side**3 / CYCLE for side in sides)


# The matrix times its basis, and Householder's Q: 4/3 for the reflections, 4/3 for their product.
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
    """Return the measurements to make: matrices, rounds, and the optimizers by name, ours first."""
    theirs = importlib.import_module("pytorch_optimizer")
    soap, shampoo = (partial(kind, update_every=CYCLE) for kind in (optim.SOAP, optim.Shampoo))
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
        {"rule": "muon", "width": 768, "layers": 3, "steps": 1, "rounds": 5, "optimizers": muons},
        {
            "rule": "muon",
            "polynomials": "polar-express",
            "width": 768,
            "layers": 3,
            "steps": 1,
            "rounds": 5,
            "optimizers": muons | {"thalweg": partial(optim.Muon, polynomials="polar-express")},
        },
        *(
            {
                "rule": "muon",
                "width": width,
                "square": 48,
                "steps": 5,
                "rounds": 11,
                "optimizers": {"thalweg": optim.Muon, "loop": partial(optim.Muon, backend="loop")},
            }
            for width in (32, 64, 96)
        ),
        *(
            {
                "rule": rule,
                "width": width,
                "layers": 1,
                "steps": CYCLE,
                "rounds": rounds,
                "optimizers": optimizers,
                "products": products,
            }
            for rule, width, rounds, optimizers, products in (
                ("soap", 384, 5, soaps, SOAP),
                ("soap", 768, 3, soaps, SOAP),
                ("shampoo", 384, 3, shampoos, SHAMPOO),
                ("shampoo", 768, 2, shampoos, SHAMPOO),
            )
        ),
    ]


def peak() -> float:
    """Return the highest measured rate of a product of two large matrices, in operations per second."""
    left, right = torch.randn(2, 3072, 3072)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - began)
    return 2 * 3072**3 / min(seconds)


def parameters(entry: dict[str, Any]) -> list[Tensor]:
    """Return the parameters of a measurement."""
    torch.manual_seed(0)
    width = entry["width"]
    shapes = [(width, width)] * entry["square"] if "square" in entry else layer(width) * entry["layers"]
    return [nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]


def time_steps(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: int) -> float:
    """Return the seconds of a number of steps, without the time to make gradients."""
    seconds = 0.0
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn_like(param)
        began = time.perf_counter()
        optimizer.step()
        seconds += time.perf_counter() - began
    return seconds


def off_orthogonal(make: Callable[..., torch.optim.Optimizer]) -> float:
    """Return the spread of the singular values of a step of Muon, divided by their mean."""
    param = nn.Parameter(torch.zeros(768, 3072))
    param.grad = torch.randn(768, 3072, generator=torch.Generator().manual_seed(0))
    make([param], lr=1.0, weight_decay=0.0).step()
    values = torch.linalg.svdvals(param.detach())
    return float(values.std() / values.mean())


def measure(entry: dict[str, Any]) -> dict[str, Any]:
    """Time the optimizers of a measurement in turn and return the row of the record."""
    runs = {}
    for name, make in entry["optimizers"].items():
        params = parameters(entry)
        runs[name] = (make(params), params)
        time_steps(*runs[name], 1)  # the first step of SOAP and Shampoo makes state that later steps update
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(entry["rounds"]):
        for name, (optimizer, params) in runs.items():
            seconds[name].append(time_steps(optimizer, params, entry["steps"]) / entry["steps"])
    ours, against, *choices = seconds
    row = {key: value for key, value in entry.items() if key not in ("optimizers", "products")} | {
        "against": against,
        "ms": {name: 1e3 * statistics.median(seconds[name]) for name in (ours, against)},
        **compare(seconds[ours], seconds[against]),
    }
    if choices:
        row["choices"] = {
            name: {"ms": 1e3 * statistics.median(seconds[name])} | compare(seconds[name], seconds[against])
            for name in choices
        }
    if "products" in entry:
        row["products"] = {name: operations(entry, name) for name in seconds}
        row["products_a_second"] = {
            name: operations(entry, name) / statistics.median(times) for name, times in seconds.items()
        }
    return row


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return the ratio of medians, and the least and greatest ratio of a round."""
    ratios = sorted(ours_s / theirs_s for ours_s, theirs_s in zip(ours, theirs, strict=True))
    return {"ratio": statistics.median(ours) / statistics.median(theirs), "ratios": [ratios[0], ratios[-1]]}


def operations(entry: dict[str, Any], name: str) -> float:
    """Return the floating-point operations of the products in a step."""
    return entry["layers"] * sum(entry["products"][name].of_step(shape) for shape in layer(entry["width"]))


def measure_on(device: torch.device, *, small: bool) -> None:
    """Measure on a device; write the record unless it is a trial."""
    record = {"machine": machine()} | device_matrices.measure(device, small=small)
    print(json.dumps(record, indent=1))
    if not small:
        RECORD.with_name(f"matrices_{device.type}.json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=torch.device, help="measure on this device, such as cuda")
    parser.add_argument("--small", action="store_true", help="try the program of --device with toys")
    arguments = parser.parse_args()
    if arguments.device is not None:
        measure_on(arguments.device, small=arguments.small)
        return
    rows, fastest = [], peak()
    for entry in entrants():
        rows.append(measure(entry))
        fastest = max(fastest, peak())
        if entry["rule"] == "muon" and "layers" in entry:
            rows[-1]["spread"] = {name: off_orthogonal(make) for name, make in entry["optimizers"].items()}
        print(rows[-1], flush=True)
    record = {"machine": machine(), "products_a_second_at_most": fastest, "rows": rows}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
