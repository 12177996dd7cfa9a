"""Numbers that change the speed of kernels and no bit: chunks, vectors, hints to the cache, bounds of registers."""

import itertools
from functools import partial
from typing import Any

import torch

from benchmarks.gpu import stub
from benchmarks.gpu.session import Session
from thalweg import optim
from thalweg.bench.device_bench import COPY_BYTES
from thalweg.bench.device_rounds import DeviceRounds
from thalweg.bench.sets import SETS
from thalweg.engine.kernels import kernel_cache
from thalweg.engine.kernels.cuda import grid

CHUNKS = (8192, 4096, 16_384, 32_768)
VECTORS = (2, 1, 4)
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"streaming": True}, {"min_blocks": 4}, {"min_blocks": 8})


def run(session: Session) -> None:
    """Time AdamW with each tuning beside torch's fused AdamW, and name the fastest."""
    for set_name in ("small",) if session.stub else ("gpt2-124m", "resnet50"):
        ratios = {}
        for name, tuning in _tunings(session):
            ratio = session.check(f"{set_name}: {name}", partial(_measure, session, set_name, tuning))
            if ratio is not None:
                ratios[name] = ratio
        session.result(f"{set_name}: step ÷ torch fused", ratios)
        if ratios:
            best = min(ratios, key=lambda name: ratios[name])
            session.result(f"{set_name}: fastest", best)
            session.say(f"{set_name}: fastest with {best}, {ratios[best]:.3f} of torch fused")


def _tunings(session: Session) -> list[tuple[str, grid.Tuning]]:
    """Return the default first, then changes of one number, then pairs of chunks and vectors."""
    tunings = [grid.Tuning(**options) for options in OPTIONS]
    pairs = [(chunk, vectors) for vectors, chunk in itertools.product(VECTORS, CHUNKS)]
    tunings += [grid.Tuning(chunk=chunk, vectors=vectors) for chunk, vectors in pairs]
    named = {str(tuning).removeprefix("Tuning"): tuning for tuning in tunings}
    return list(named.items())[: 2 if session.stub else None]


def _measure(session: Session, set_name: str, tuning: grid.Tuning) -> float:
    """Return the time of a step divided by that of torch's fused AdamW."""
    before = vars(grid.DEFAULT_TUNING).copy()
    # The one object that the text, the tables and the launches read.
    vars(grid.DEFAULT_TUNING).update(vars(tuning))
    kernel_cache._KERNELS.clear()
    try:
        shapes = [(64, 64), (64,)] * 5 if session.stub else SETS[set_name]()
        meter = stub.meter(session.device)
        rounds = DeviceRounds(meter, shapes, torch.float32, 2**20 if session.stub else COPY_BYTES)
        factories = {"torch fused": partial(torch.optim.AdamW, fused=True), "thalweg": _compiled_adamw}
        times = rounds.run(factories, "torch fused", 3 if session.stub else 7, lambda message: None)
        assert not rounds.failed, rounds.failed
        ours, fused = (sorted(times[name].device_s) for name in ("thalweg", "torch fused"))
        return ours[len(ours) // 2] / fused[len(fused) // 2]
    finally:
        vars(grid.DEFAULT_TUNING).update(before)
        kernel_cache._KERNELS.clear()


def _compiled_adamw(params: Any) -> optim.RuleOptimizer:
    return optim.AdamW(params, backend="compiled")
