"""The products and decompositions of the rules of matrices on a device, and Muon on the hidden matrices of two models.

`python benchmarks/speed/matrices.py --device cuda` runs this and writes `benchmarks/records/matrices_cuda.json`. Times
are those of events on the device, after calls that are not counted; medians of rounds. It measures what the limits in
`engine/core/matrix_batches.py` and `rules/math/matrices.py` should be: up to which size stacks pay, whether half of a
symmetric product does, and which share of the highest rate of products the iteration reaches.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from thalweg import optim
from thalweg.rules.math.matrices import (
    MIN_NORM,
    gram_by_strips,
    iteration_polynomials,
    newton_schulz,
    power_iteration,
)

Make = Callable[..., torch.optim.Optimizer]
ITERATION = iteration_polynomials("jordan", 5)
MUONS: dict[str, Make] = {
    "torch.optim": torch.optim.Muon,
    **{f"thalweg, {products}": partial(optim.Muon, products=products) for products in ("float16", "bfloat16")},
}


def models(small: bool) -> dict[str, list[tuple[int, int]]]:
    """Return the shapes of the hidden matrices of two models; of toys for a trial of this program."""
    if small:
        return {"toy": [(32, 32), (96, 32), (32, 96)] * 2}
    gpt = [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12
    llama = [(2048, 2048), (256, 2048), (256, 2048), (2048, 2048), (5632, 2048), (5632, 2048), (2048, 5632)] * 22
    return {"GPT-2 124 M": gpt, "Llama 1.1 B": llama}


def seconds(call: Callable[[], Any], device: torch.device, rounds: int = 7) -> float:
    """Return the median time of a call."""
    times = []
    for count in range(rounds + 2):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            elapsed = 1e-3 * start.elapsed_time(end)
        else:
            began = time.perf_counter()
            call()
            elapsed = time.perf_counter() - began
        if count >= 2:
            times.append(elapsed)
    return statistics.median(times)


def peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Return the measured rate of a product of two large matrices, in operations per second."""
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / seconds(lambda: left @ right, device)


def measure_muon(shapes: list[tuple[int, int]], make: Make, device: torch.device) -> dict[str, float]:
    """Return the time of a step on the device and on the host, and the operations in its products."""
    params = [nn.Parameter(0.02 * torch.randn(shape, device=device)) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer = make(params)
    optimizer.step()
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    elapsed = seconds(optimizer.step, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    optimizer.step()
    host = time.perf_counter() - began
    return {"ms": 1e3 * elapsed, "host_ms": 1e3 * host, "products_a_second": counter.get_total_flops() / elapsed}


def spread(make: Make, device: torch.device, shape: tuple[int, int]) -> float:
    """Return the spread of the singular values of a step, divided by their mean."""
    param = nn.Parameter(torch.zeros(shape, device=device))
    param.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    make([param], lr=1.0, weight_decay=0.0).step()
    values = torch.linalg.svdvals(param.detach().cpu().double())
    return float(values.std() / values.mean())


def stacked_against_single(
    call: Callable[[Tensor], Any], stack: Tensor, device: torch.device
) -> dict[str, float | list[int]]:
    """Return the time of a call on a stack of matrices, divided by that of calls on each of them."""
    single = seconds(lambda: [call(matrix) for matrix in stack.unbind()], device)
    return {"shape": list(stack.shape), "stacked_to_single": seconds(lambda: call(stack), device) / single}


def symmetric(size: int, device: torch.device) -> torch.Tensor:
    """Return a stack of eight positive definite matrices."""
    x = torch.randn(8, size, size, device=device)
    return x @ x.mT / size + torch.eye(size, device=device)


def measure(device: torch.device, *, small: bool) -> dict[str, Any]:
    """Return all measurements.

    Args:
        device: The device.
        small: True for a trial of this program with toys.
    """
    record: dict[str, Any] = {"muon": {}, "products": [], "strips": [], "decompositions": []}
    half = torch.float16
    record["peak"] = {str(dtype): peak(device, dtype, 256 if small else 8192) for dtype in (half, torch.bfloat16)}
    shape = (24, 96) if small else (768, 3072)
    record["spread"] = {name: spread(make, device, shape) for name, make in MUONS.items()}
    for model, shapes in models(small).items():
        rows = {name: measure_muon(shapes, make, device) for name, make in MUONS.items()}
        for row in rows.values():
            row["ratio"] = row["ms"] / rows["torch.optim"]["ms"]
            row["share_of_peak"] = row["products_a_second"] / max(record["peak"].values())
        record["muon"][model] = rows
    iterate = partial(newton_schulz, polynomials=ITERATION, eps=MIN_NORM, products=half)
    for size in (16, 32) if small else (64, 256, 512, 768, 1024, 1536, 2048, 4096):
        for columns in (size, 4 * size):
            stack = torch.randn(8, size, columns, device=device)
            record["products"].append(stacked_against_single(iterate, stack, device))
        x = torch.randn(8, size, 4 * size, device=device).to(half)
        whole = seconds(lambda x=x: x @ x.mT, device)
        for strip_rows in (128, 256, 512):
            elapsed = seconds(lambda x=x, rows=strip_rows: gram_by_strips(x, rows), device)
            record["strips"].append({"shape": list(x.shape), "strip_rows": strip_rows, "to_whole": elapsed / whole})
    for size in (8, 16) if small else (16, 32, 64, 128, 256, 512, 768):
        matrices = symmetric(size, device)
        calls: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {
            "eigh, float32": (torch.linalg.eigh, matrices),
            "eigh, float64": (torch.linalg.eigh, matrices.double()),
            "power iteration": (lambda stack: power_iteration(stack, stack), matrices),
        }
        for name, (call, stack) in calls.items():
            record["decompositions"].append({"name": name} | stacked_against_single(call, stack, device))
    return record
