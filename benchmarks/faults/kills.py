"""Kills of a process that trains: `python benchmarks/faults/kills.py`, on Linux, ten minutes on an idle machine.

A process starts workers, trains in them with DataLoaders, and closes them, again and again. It is killed at a random
moment by one of four signals. It has survived the attack if it leaves no process behind, whether its workers were
starting, training or ending; forks and fresh processes alike. The times of starts and of `isolated` are measured beside
it. The script writes the numbers to `benchmarks/records/faults_kills.json`.
"""

import argparse
import json
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from thalweg.bench.bench import machine
from thalweg.comparison.processes.worker import Worker, wait_for_replies
from thalweg.tasks.reproducibility.isolation import isolated

ROOT = Path(__file__).parents[2]
SCENARIOS = ROOT / "tests" / "faults" / "kill_scenarios.py"
RECORD = ROOT / "benchmarks" / "records" / "faults_kills.json"
SEEDS, FORKS, FRESH = range(1, 9), 50, 5


def kills() -> dict[str, dict[str, int]]:
    """Kill, and count the kills, the processes that had to end, and those that did not."""
    table = {
        kind: {"kills": 0, "processes": 0, "left": 0} for kind in ("workers are forks", "workers are fresh processes")
    }
    for seed in SEEDS:
        command = [sys.executable, str(SCENARIOS), str(seed), str(FORKS), str(FRESH)]
        result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        for kind, part in zip(table, (slice(0, FORKS), slice(FORKS, None)), strict=True):
            table[kind]["kills"] += len(result["left"][part])
            table[kind]["processes"] += sum(result["processes"][part])
            table[kind]["left"] += sum(result["left"][part])
        print(seed, table, flush=True)
    return table


def answer(request: Any, report_share: Callable[[float], None]) -> Any:
    """Return the request."""
    return request


def start_ms(*, is_fork: bool, times: int) -> dict[str, float]:
    """Return the milliseconds from the start of a worker to its first answer: median and maximum."""
    durations = []
    for _ in range(times):
        start_s = time.perf_counter()
        worker = Worker(answer, is_fork=is_fork)
        worker.send(pickle.dumps(1))
        while not wait_for_replies([worker], 1.0):
            pass
        worker.receive()
        durations.append(1000 * (time.perf_counter() - start_s))
        worker.kill()
    return {"median": round(statistics.median(durations), 2), "max": round(max(durations), 2)}


def isolation_ms() -> float:
    """Return the milliseconds that `isolated` takes around a training: the median."""
    durations = []
    for _ in range(500):
        start_s = time.perf_counter()
        with isolated():
            pass
        durations.append(1000 * (time.perf_counter() - start_s))
    return round(statistics.median(durations), 3)


def main() -> None:
    """Kill and measure, and write the record."""
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # imports what the first optimizer imports, as the pool does
    record = {
        "kills": kills(),
        "start of a worker [ms]": {
            "fork": start_ms(is_fork=True, times=50),
            "fresh process": start_ms(is_fork=False, times=5),
        },
        "isolated [ms]": isolation_ms(),
        "machine": machine(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
