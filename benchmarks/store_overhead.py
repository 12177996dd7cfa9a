"""What the store costs: 1,000 results of a second each, with curves of 16 looks, written as a comparison writes them.

Nothing is trained: the results are made up. They are written into a new file in batches as large as a population, and
read back once, as a comparison reads them for its verdict. Prints the share of the trainings' time, writes the record.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from cases.comparison_records import PLAN, WORKLOAD
from thalweg.bench.bench import machine
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.search import draw_settings
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.store import Store
from thalweg.comparison.training.result import Evaluation, TrainingResult

HERE = Path(__file__).parent
RECORD = HERE / "records" / "store_overhead.json"
TRIALS, TRIAL_S = 1000, 1.0
HORIZON = TrainingSchedule(680, "linear", num_evaluations=16)
BATCHES = (1, 8, 32)
WORKERS = (1, 2)  # two workers train twice as fast, and one process writes
REPETITIONS = 5
BOUND = 0.05


def made_up(trials: int) -> list[TrialRecord]:
    """Results like those of AdamW: all settings searched, every number with all its digits."""
    random.seed(0)
    entries = []
    for trial, settings in enumerate(draw_settings(parse("adamw"), trials, seed=0)):
        looks = [Evaluation(step, random.random(), random.random()) for step in HORIZON.evaluation_steps()]
        result = TrainingResult("ok", *(random.random() for _ in range(4)), seconds=TRIAL_S, evaluations=looks)
        entries.append(TrialRecord("adamw", "search", 0, trial, random.getrandbits(32), settings, result))
    return entries


def written(entries: list[TrialRecord], batch: int) -> dict[str, float]:
    """Seconds to write results to a new file and to read them back, and what the file holds in bytes."""
    # Beside this script: a folder for temporary files may lie in memory.
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        store = Store(Path(folder) / "store.sqlite")
        header = store.create("key", workload=WORKLOAD, contenders=[], plan=PLAN, environment={})
        began = time.perf_counter()
        for start in range(0, len(entries), batch):
            store.add(header.id, entries[start : start + batch])
        add_s = time.perf_counter() - began
        began = time.perf_counter()
        found = store.trials(header.id)
        read_s = time.perf_counter() - began
        assert found == entries
        store.close()
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {"add_s": add_s, "read_s": read_s, "bytes": size}


def summed(batch: int, runs: list[dict[str, float]], trials: int) -> dict[str, Any]:
    """The repetitions with one size of batch: medians and the worst, and shares of the time of the trainings."""
    taken = [run["add_s"] + run["read_s"] for run in runs]
    shares = {
        workers: {
            "median": statistics.median(taken) * workers / (trials * TRIAL_S),
            "worst": max(taken) * workers / (trials * TRIAL_S),
        }
        for workers in WORKERS
    }
    columns = {
        name: {"median": statistics.median(run[name] for run in runs), "worst": max(run[name] for run in runs)}
        for name in ("add_s", "read_s")
    }
    return {"batch": batch, **columns, "bytes": max(run["bytes"] for run in runs), "share_by_workers": shares}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--out", type=Path, default=RECORD)
    asked = parser.parse_args()
    entries = made_up(asked.trials)
    runs: dict[int, list[dict[str, float]]] = {batch: [] for batch in BATCHES}
    for _ in range(asked.repetitions):
        for batch in BATCHES:
            runs[batch].append(written(entries, batch))
    rows = [summed(batch, each, asked.trials) for batch, each in runs.items()]
    record = {
        "trials": asked.trials,
        "trial_s": TRIAL_S,
        "looks": HORIZON.num_evaluations,
        "repetitions": asked.repetitions,
        "bound": BOUND,
        "rows": rows,
        "machine": machine(),
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n")
    for row in rows:
        shares = ", ".join(
            f"{share['median']:.3%} (worst {share['worst']:.3%}) with {workers} at work"
            for workers, share in row["share_by_workers"].items()
        )
        print(f"batches of {row['batch']}: {shares}; {row['bytes'] / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
