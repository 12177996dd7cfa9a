"""Cost of watching a training: steps of the digits CNN and the character GPT, watched and not, in turn.

Run on an idle machine, on one core::

    taskset -c 1 python benchmarks/speed/watch.py

It writes ``benchmarks/records/watch.json``: for each task the median processor seconds of a step that is not watched,
and what watching adds at the default setting and at every step, as the median over rounds of ratios of neighbouring
blocks.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from thalweg import watch
from thalweg.comparison.training.runs import micro_batches
from thalweg.diagnosis.monitoring import Monitor
from thalweg.tasks import load

RECORD = Path(__file__).parents[1] / "records" / "watch.json"
TASKS = ("digits-cnn", "characters")
BLOCK = 200  # steps: four monitored ones at the default setting, and one reading
SETTINGS: dict[str, int | None] = {"default": None, "every step": 1}
BOUNDS = {"default": 0.03, "every step": 0.15}


class Arm:
    """A training of its own, watched or not, of which blocks of steps are timed."""

    def __init__(self, name: str, every: int | None, *, is_watched: bool) -> None:
        self.task = load(name)
        self.model = self.task.make_model(0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.batches: Iterator[Sequence[Any]] = micro_batches(self.task, 0, full_batch=False)
        self.monitor: Monitor | None = watch(self.model, self.optimizer, every=every) if is_watched else None

    def block(self, steps: int) -> float:
        """Take steps and return the processor seconds of one: other programs on the machine do not count."""
        batches = [next(self.batches)[0] for _ in range(steps)]
        began = time.process_time()
        for batch in batches:
            self.optimizer.zero_grad()
            loss = self.task.loss(self.model, batch)
            loss.backward()
            self.optimizer.step()
            if self.monitor is not None:
                self.monitor.step(loss)
        return (time.process_time() - began) / steps


def measure(name: str, steps: int, rounds: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Time blocks in turn, each watched one between two unwatched ones."""
    unwatched = Arm(name, None, is_watched=False)
    arms = {setting: Arm(name, every, is_watched=True) for setting, every in SETTINGS.items()}
    seconds: list[float] = []
    ratios: dict[str, list[float]] = {setting: [] for setting in arms}
    for arm in arms.values():
        assert arm.monitor is not None
        arm.monitor.__enter__()
    try:
        for number in range(rounds + 2):
            before = unwatched.block(steps)
            for setting, arm in arms.items():
                watched, after = arm.block(steps), unwatched.block(steps)
                if number >= 2:  # the first blocks warm up, and hold the dense start of the default setting
                    ratios[setting].append(2 * watched / (before + after))
                    seconds.append(after)
                before = after
    finally:
        for arm in arms.values():
            assert arm.monitor is not None
            arm.monitor.__exit__(None, None, None)
    added = {setting: median(values) - 1 for setting, values in ratios.items()}
    report(f"{name}: a step {1e3 * median(seconds):.2f} ms; " + ", ".join(f"{k} {v:+.1%}" for k, v in added.items()))
    return {"step_s": median(seconds), "added": added, "rounds": rounds, "steps_of_a_block": steps}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    results = {name: measure(name, BLOCK, arguments.rounds, print) for name in TASKS}
    record = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
        "threads": 1,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "bounds": BOUNDS,
        "tasks": results,
        "holds": all(
            result["added"][setting] < bound for result in results.values() for setting, bound in BOUNDS.items()
        ),
    }
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
