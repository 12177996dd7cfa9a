"""Steps of two revisions of thalweg on the CPU, in interleaved processes: whether a change made anything slower.

``python benchmarks/speed/revisions.py PATH_OF_ANOTHER_CHECKOUT`` times the other checkout and this one in turn and
prints, for each rule and set of parameters, the ratio of this one to the other. Run nothing else beside it. The script
writes the record. Its sets are those of ``thalweg bench``, and three more: "tiny", four tensors of 64 elements, where
all time is overhead; "hidden", four matrices of 64 x 64; and "network", a network with such layers, whose hidden
matrices are routed to Muon. In "scheduled" ones each step has another learning rate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from thalweg.bench.records import machine

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks" / "records" / "revisions.json"

SCRIPT = """
import json, statistics, time, warnings
import torch
from torch import nn
from thalweg import optim
from thalweg.bench import sets
warnings.simplefilter("ignore")
TIMED = {
    "tiny": (4000, ("SGD", "Adam", "AdamW", "RMSprop", "Prodigy")),
    "tiny scheduled": (4000, ("SGD", "AdamW")),
    "hidden": (500, ("Muon", "NorMuon")),
    "network": (500, ("muon+adamw",)),
    "network scheduled": (500, ("muon+adamw",)),
    "small": (300, ("SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "LAMB", "Prodigy", "Adafactor")),
    "gpt2": (12, ("SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "LAMB")),
    "matrices": (5, ("Muon", "NorMuon")),
}
SHAPES = {
    "tiny": [(8, 8)] * 4,
    "hidden": [(64, 64)] * 4,
    "small": sets.small(),
    "gpt2": sets.gpt2(),
    "matrices": [(256, 256)] * 8,
}


def make_optimizer(kind, name):
    if kind == "network":
        layers = [module for width in (64, 64, 64) for module in (nn.Linear(64, width), nn.ReLU())]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        params, optimizer = list(model.parameters()), optim.route(model, name, lr=1e-6).optimizer()
    else:
        params = [torch.full(shape, 0.02, requires_grad=True) for shape in SHAPES[kind]]
        extra = {"momentum": 0.9} if name == "SGD" else {}
        extra |= {"backend": "compiled"} if kind not in ("matrices", "hidden") else {}
        optimizer = getattr(optim, name)(params, lr=1e-6, **extra)
    for param in params:
        param.grad = torch.randn_like(param) * 0.01
    return optimizer


medians = {}
for kind, (count, names) in TIMED.items():
    kind, _, scheduled = kind.partition(" ")
    for name in names:
        optimizer = make_optimizer(kind, name)
        for _ in range(max(2, count // 10)):
            optimizer.step()
        seconds = []
        for number in range(count):
            start = time.perf_counter()
            if scheduled:
                for group in optimizer.param_groups:
                    group["lr"] = 1e-6 * (1 + number % 7)
            optimizer.step()
            seconds.append(time.perf_counter() - start)
        medians[" ".join(filter(None, (kind, scheduled, name)))] = statistics.median(seconds)
print(json.dumps(medians))
"""


def median_seconds(checkout: Path) -> dict[str, float]:
    """Return the median seconds of a step for each set and rule, in a process that imports this checkout."""
    completed = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": str(checkout / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(completed.stdout)
    return measured


def revision(checkout: Path) -> str:
    """Return the commit of a checkout."""
    return subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="another checkout of thalweg")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    checkouts = {"other": arguments.other.resolve(), "this": ROOT}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for turn in range(arguments.rounds):
        for name in sorted(checkouts, reverse=turn % 2 == 1):
            seconds[name].append(median_seconds(checkouts[name]))
    record = []
    for timed in seconds["this"][0]:
        ratios = [new[timed] / old[timed] for new, old in zip(seconds["this"], seconds["other"], strict=True)]
        record.append(
            {
                "timed": timed,
                "other_ms": 1e3 * statistics.median(old[timed] for old in seconds["other"]),
                "this_ms": 1e3 * statistics.median(new[timed] for new in seconds["this"]),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
            }
        )
        print(f"{timed:20} {record[-1]['other_ms']:9.3f} ms {record[-1]['this_ms']:9.3f} ms {record[-1]['ratio']:6.3f}")
    revisions = {name: revision(path) for name, path in checkouts.items()}
    RECORD.write_text(
        json.dumps(
            {"revisions": revisions, "rounds": arguments.rounds, "steps": record, "machine": machine()}, indent=1
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
