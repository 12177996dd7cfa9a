"""Two processes that run the cases of a module together, as two ranks of a gloo group."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 900  # of all cases together; on two idle cores they take some 20 s
_COLLECTIVE_TIMEOUT = timedelta(seconds=120)

Case = Callable[[int], None]  # runs in both processes and gets the rank


def run(module: str, folder: Path) -> dict[str, list[str]]:
    """Run the cases of a module in two processes and wait for them.

    Args:
        module: The name of a module that calls `serve` if it is run.
        folder: An empty folder, for the rendezvous and the results.

    Returns:
        The outcome of each case in each process, ``"passed"`` or a traceback. Cases that did not run are absent.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(["src", ".", *sys.path])}
    logs = [open(folder / f"log{rank}", "w") for rank in range(2)]  # noqa: SIM115
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(folder), str(rank)], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        for rank, log in enumerate(logs)
    ]
    try:
        for process in processes:
            process.wait(_TIMEOUT_S)
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    outcomes: dict[str, list[str]] = {}
    for rank in range(2):
        for name, outcome in _read(folder, rank).items():
            outcomes.setdefault(name, []).append(outcome)
    return outcomes


def _read(folder: Path, rank: int) -> dict[str, str]:
    results = folder / f"results{rank}"
    assert results.exists(), (folder / f"log{rank}").read_text()
    read: dict[str, str] = json.loads(results.read_text())
    return read


def serve(cases: Mapping[str, Case], folder: Path, rank: int) -> None:
    """Run all cases as one of the two processes, up to the first that fails: then the two may be out of step."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=_COLLECTIVE_TIMEOUT
    )
    results: dict[str, str] = {}
    for name, case in cases.items():
        try:
            case(rank)
            results[name] = "passed"
        except (Exception, pytest.fail.Exception):  # the second is of `pytest.raises`
            results[name] = traceback.format_exc()
        (folder / f"results{rank}").write_text(json.dumps(results))
        if results[name] != "passed":
            os._exit(1)  # without waiting for the other process
    dist.destroy_process_group()
