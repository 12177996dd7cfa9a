"""The time of an evaluation of L-BFGS, beside torch.optim.LBFGS on the same problem.

`python benchmarks/speed/lbfgs.py` writes `benchmarks/records/lbfgs.json`; two minutes on one core, or with `--quick`
some seconds without a record. A problem is a network that fits a function on a full batch, with history sizes from 10
to 100 and with both kinds of steps. Both optimizers first fill their history; then they take steps in turn, in rounds.
The time of a step is divided by the calls of the closure in it. The closure's own time is in the evaluation of both: it
is what a user waits for. The time beside the closure is given too.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thalweg import optim
from thalweg.bench.bench import machine

RECORD = Path(__file__).parents[1] / "records" / "lbfgs.json"
PROBLEMS = {"2 x 32": (2, 32), "3 x 64": (3, 64), "4 x 256": (4, 256)}  # hidden layers and their width
HISTORIES = (10, 30, 100)
ROUNDS = 9
MAX_FILL_STEPS = 40
MIN_CALLS = 15  # of the closure in a step that counts


@dataclass
class Side:
    """One of the two optimizers, with its own copy of the problem.

    Attributes:
        step: Takes a step.
        evaluations: Calls of the closure so far.
        closure_s: Seconds within the closure so far.
    """

    step: Callable[[], None]
    evaluations: int = 0
    closure_s: float = 0.0


def make_side(kind: Any, depth: int, width: int, **settings: Any) -> Side:
    """Return an optimizer of a network that fits a product of sines."""
    torch.manual_seed(0)
    sizes = [2, *[width] * depth]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(width, 1))
    inputs = torch.rand(256, 2)
    target = (6 * inputs).sin().prod(1, keepdim=True)
    optimizer = kind(model.parameters(), **settings)

    def closure() -> torch.Tensor:
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), target)
        loss.backward()
        side.closure_s += time.perf_counter() - start
        side.evaluations += 1
        return loss

    side = Side(lambda: optimizer.step(closure))
    return side


def measure(depth: int, width: int, history: int, search: str, rounds: int) -> dict[str, Any] | None:
    """Return the medians over interleaved rounds: the time of an evaluation as a ratio, and microseconds of both.

    None if one of the two converged before the first round.
    """
    settings: dict[str, Any] = {"history_size": history, "max_iter": 20, "tolerance_change": 0.0, "tolerance_grad": 0.0}
    settings |= {"line_search_fn": "strong_wolfe"} if search == "strong_wolfe" else {"lr": 0.05}
    sides = [make_side(kind, depth, width, **settings) for kind in (optim.LBFGS, torch.optim.LBFGS)]
    for side in sides:
        for _ in range(MAX_FILL_STEPS):
            if side.evaluations > history + 20:
                break
            side.step()
    seconds: list[list[tuple[float, float]]] = [[], []]
    for number in range(rounds):
        times: dict[int, tuple[float, float]] = {}
        for place in (0, 1) if number % 2 else (1, 0):
            side = sides[place]
            calls, closure_s, start = side.evaluations, side.closure_s, time.perf_counter()
            side.step()
            step_s, calls = time.perf_counter() - start, side.evaluations - calls
            if calls >= MIN_CALLS:  # fewer: it has converged
                times[place] = step_s / calls, (step_s - side.closure_s + closure_s) / calls
        if len(times) == 2:
            seconds[0].append(times[0])
            seconds[1].append(times[1])
    if not seconds[0]:
        return None
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(*seconds, strict=True)]
    beside = [ours[1] / theirs[1] for ours, theirs in zip(*seconds, strict=True)]
    return {
        "rounds": len(ratios),
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "ratio_beside_closure": statistics.median(beside),
        "ours_us": 1e6 * statistics.median(pair[0] for pair in seconds[0]),
        "torch_us": 1e6 * statistics.median(pair[0] for pair in seconds[1]),
    }


def main() -> None:
    """Measure all problems and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds, no record")
    parser.add_argument("--beside", action="store_true", help="note that other programs ran on the machine meanwhile")
    arguments = parser.parse_args()
    entries = []
    for problem, (depth, width) in PROBLEMS.items():
        for history in HISTORIES:
            for search in ("fixed", "strong_wolfe"):
                entry = measure(depth, width, history, search, 3 if arguments.quick else ROUNDS)
                if entry is None:
                    print(f"{problem:8} history {history:3} {search:12} has converged")
                    continue
                entries.append({"problem": problem, "history": history, "line_search_fn": search, **entry})
                print(
                    f"{problem:8} history {history:3} {search:12} {entry['ratio']:5.2f} of torch's time "
                    f"({entry['ratio_beside_closure']:.2f} beside the closure; {entry['ours_us']:.0f} and "
                    f"{entry['torch_us']:.0f} µs)"
                )
    if not arguments.quick:
        record = {"machine": machine(), "beside_other_work": arguments.beside, "rounds": ROUNDS, "entries": entries}
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
