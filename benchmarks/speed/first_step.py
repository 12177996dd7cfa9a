"""The time of the first step of a new process on the small set, after its imports: our Adam beside torch's.

Cold: no kernel has been compiled on the machine. Warm: an earlier process has left a kernel. The three are measured in
turn, several times. The script prints the medians and writes the record.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from thalweg.bench.records import machine

RECORD = Path(__file__).parents[1] / "records" / "first_step.json"
ROUNDS = 7

SCRIPT = """
import time, torch, thalweg.optim, thalweg.bench.sets
params = [torch.full(shape, 0.02, requires_grad=True) for shape in thalweg.bench.sets.small()]
for param in params:
    param.grad = torch.full_like(param, 0.01)
start = time.perf_counter()
optimizer = {optimizer}(params)
optimizer.step()
print(time.perf_counter() - start)
"""


def first_step(optimizer: str, cache: str) -> float:
    """Return the seconds from making the optimizer to the end of its first step, in a process of its own."""
    completed = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(optimizer=optimizer)],
        env=os.environ | {"XDG_CACHE_HOME": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(completed.stdout)


def main() -> None:
    """Measure and write the record."""
    times: dict[str, list[float]] = {"torch Adam": [], "thalweg Adam, cold": [], "thalweg Adam, warm": []}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as cache:
            times["torch Adam"].append(first_step("torch.optim.Adam", cache))
            times["thalweg Adam, cold"].append(first_step("thalweg.optim.Adam", cache))
            # Warm is a cache in which the compiler has finished.
            first_step("(lambda params: thalweg.optim.Adam(params, backend='compiled'))", cache)
            times["thalweg Adam, warm"].append(first_step("thalweg.optim.Adam", cache))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    extra = {name: median - medians["torch Adam"] for name, median in medians.items()}
    RECORD.write_text(
        json.dumps({"seconds": times, "median_s": medians, "extra_s": extra, "machine": machine()}, indent=1) + "\n"
    )
    for name, median in medians.items():
        print(f"{name:20} {median:.3f} s, {extra[name]:+.3f} s")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
