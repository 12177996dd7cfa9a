"""The time of a whole train step under ``torch.compile``: our AdamW beside torch's, in one interleaved run.

A train step is forward, backward, ``optimizer.step()`` and ``zero_grad()``. torch's AdamW is traced and compiled with
it; ``fused=True`` and ours are called. The script prints medians and their ratios, and writes the record.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters

from thalweg import optim
from thalweg.bench.records import machine

RECORD = Path(__file__).parents[1] / "records" / "compiled_train_step.json"
ROUNDS = 30
STEPS = 10  # in a round
MODELS = {"16 layers of 64": (16, 64, 16), "6 layers of 512": (6, 512, 64)}  # layers, width, examples
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "torch default": torch.optim.AdamW,
    "torch fused": lambda params: torch.optim.AdamW(params, fused=True),
    "thalweg": optim.AdamW,
}


def train_step(depth: int, width: int, examples: int, optimizer_of: Callable[[Any], Any]) -> Callable[[], None]:
    """Return a compiled train step of a perceptron."""
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())))
    optimizer = optimizer_of(model.parameters())
    if isinstance(optimizer, optim.RuleOptimizer):
        optimizer.prepare()
    batch = torch.randn(examples, width)

    def step() -> None:
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return torch.compile(step)


def measure(depth: int, width: int, examples: int) -> dict[str, Any]:
    """Return the seconds of the first steps, the compiled graphs, and the median time of a later step, by optimizer."""
    steps, first, graphs = {}, {}, {}
    for name, optimizer_of in OPTIMIZERS.items():
        torch._dynamo.reset()
        counters.clear()
        steps[name] = train_step(depth, width, examples, optimizer_of)
        start = time.perf_counter()
        for _ in range(5):
            steps[name]()
        first[name] = time.perf_counter() - start
        graphs[name] = counters["stats"]["unique_graphs"]
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS + 1):
        for name in list(steps)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            for _ in range(STEPS):
                steps[name]()
            if number:  # the first round warms up
                times[name].append(1e3 * (time.perf_counter() - start) / STEPS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        name: statistics.median(ours / theirs for ours, theirs in zip(times["thalweg"], values, strict=True))
        for name, values in times.items()
    }
    return {"median_ms": medians, "thalweg_divided_by": ratios, "first_five_steps_s": first, "graphs": graphs}


def main() -> None:
    """Measure and write the record."""
    record: dict[str, Any] = {"rounds": ROUNDS, "machine": machine()}
    for title, sizes in MODELS.items():
        record[title] = result = measure(*sizes)
        print(f"{title}, {sizes[2]} examples")
        for name, median in result["median_ms"].items():
            print(
                f"  {name:14} {median:7.3f} ms a step; thalweg ÷ this {result['thalweg_divided_by'][name]:.2f}; "
                f"{result['graphs'][name]} graphs, {result['first_five_steps_s'][name]:.1f} s for the first five steps"
            )
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
