"""Rules of matrices: Muon beside torch's, SOAP and Shampoo beside pytorch_optimizer's, and how orthogonal a step is."""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.gpu import stub
from benchmarks.gpu.packages import missing
from benchmarks.gpu.session import Session
from thalweg import optim
from thalweg.bench.device_bench import COPY_BYTES
from thalweg.bench.device_rounds import DeviceRounds, DeviceTimes
from thalweg.bench.measure import ratio_of_medians

Make = Callable[[Any], torch.optim.Optimizer]
CYCLE = 10


def gpt2_layers(width: int, layers: int) -> list[tuple[int, ...]]:
    """Return the shapes of the hidden matrices of GPT-2."""
    return layers * [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]


def llama_layers() -> list[tuple[int, ...]]:
    """Return the shapes of the hidden matrices of a Llama of 1.1 billion parameters."""
    attention = [(2048, 2048), (256, 2048), (256, 2048), (2048, 2048)]
    return 22 * [*attention, (5632, 2048), (5632, 2048), (2048, 5632)]


def run(session: Session) -> None:
    """Time the rules on both models, and measure their steps."""
    small = [(16, 8), (8, 16)] * 3
    models = {
        "hidden matrices of GPT-2 124 M": (small if session.stub else gpt2_layers(768, 12), 0.35),
        "hidden matrices of Llama 1.1 B": (small if session.stub else llama_layers(), 0.8),
    }
    muons = _muons()
    spreads = {}
    for name, make in muons.items():
        spread = session.check(f"{name}: spread of the singular values of a step", partial(_spread, session, make))
        spreads[name] = spread
    session.result("spread of singular values ÷ their mean", spreads)
    for model, (shapes, bound) in models.items():
        ratios = session.check(f"Muon, {model}", partial(_ratios, session, shapes, muons, "torch.optim"))
        session.result(f"Muon, {model}", ratios)
        for name in [*muons][1:] if ratios else ():
            equal = (spreads.get(name) or 1.0) <= 1.05 * (spreads.get("torch.optim") or 0.0)
            if equal and name in ratios:
                session.target(f"Muon ÷ torch.optim.Muon, {model}: {name}", ratios[name], at_most=bound)
    if absent := missing(("pytorch_optimizer",)):
        session.skip("SOAP and Shampoo beside a rival", f"missing: {', '.join(absent)}. Run: make gpu-wheels")
        return
    theirs = importlib.import_module("pytorch_optimizer")
    rivals: dict[str, dict[str, Make]] = {
        "SOAP": {
            "pytorch_optimizer": partial(theirs.SOAP, precondition_frequency=CYCLE),
            "thalweg": partial(optim.SOAP, update_every=CYCLE),
        },
        "Shampoo": {
            "pytorch_optimizer": partial(theirs.Shampoo, preconditioning_compute_steps=CYCLE),
            "thalweg": partial(optim.Shampoo, update_every=CYCLE),
        },
    }
    for name, factories in rivals.items():
        shapes = small if session.stub else gpt2_layers(768, 1)
        ratios = session.check(
            f"{name}, a layer of GPT-2", partial(_ratios, session, shapes, factories, "pytorch_optimizer", cycle=CYCLE)
        )
        if ratios and "thalweg" in ratios:
            session.result(f"{name}, a layer of GPT-2", ratios)
            session.target(f"{name} ÷ pytorch_optimizer", ratios["thalweg"], at_most=0.5)


def _muons() -> dict[str, Make]:
    """Return torch's Muon and ours, at each precision of products that ours offers."""
    makes: dict[str, Make] = {"torch.optim": torch.optim.Muon, "thalweg": optim.Muon}
    if "products" in inspect.signature(optim.Muon).parameters:
        makes |= {
            f"thalweg, products in {dtype}": partial(optim.Muon, products=dtype) for dtype in ("bfloat16", "float16")
        }
    return makes


def _ratios(
    session: Session, shapes: list[tuple[int, ...]], factories: dict[str, Make], baseline: str, cycle: int = 1
) -> dict[str, float]:
    """Return the time of each optimizer divided by that of the baseline; the steps of a cycle count as one."""
    rounds = DeviceRounds(
        stub.meter(session.device), shapes, torch.float32, 2**20 if session.stub else COPY_BYTES, steps_of_a_call=cycle
    )
    times: dict[str, DeviceTimes] = rounds.run(factories, baseline, 2 if session.stub else 5, session.say)
    ours = {name: reason for name, reason in rounds.failed.items() if name.startswith("thalweg")}
    assert not ours, ours
    return {name: ratio_of_medians(each.device_s, each.baseline_s)[0] for name, each in times.items()}


def _spread(session: Session, make: Make) -> float:
    """Return the spread of the singular values of a step, divided by their mean."""
    rows, columns = (24, 96) if session.stub else (768, 3072)
    param = nn.Parameter(torch.zeros(rows, columns, device=session.device))
    param.grad = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(session.device)
    optimizer: Any = make([param])
    for group in optimizer.param_groups:
        group.update(lr=1.0, weight_decay=0.0)
    optimizer.step()
    values = torch.linalg.svdvals(param.detach().cpu().double())
    return float(values.std() / values.mean())
