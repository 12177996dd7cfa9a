"""The time of the store: 1,000 results of a second each with 16 evaluations, written as a comparison writes them.

Nothing is trained: the results are random. They are written into a new file in batches as large as a population, and
read back once, as a comparison reads them for its verdict. The script prints the share of the time of the trainings and
writes the record.
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
from thalweg.bench.records import machine
from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.contenders.schedule import TrainingSchedule
from thalweg.comparison.planning.search import draw_settings
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.results.store import Store
from thalweg.comparison.training.result import Evaluation, TrainingResult

HERE = Path(__file__).parent
RECORD = HERE.parent / "records" / "store_overhead.json"
TRIALS, TRIAL_S = 1000, 1.0
SCHEDULE = TrainingSchedule(680, "linear", num_evaluations=16)
BATCHES = (1, 8, 32)
WORKERS = (1, 2)  # two workers train twice as fast, and one process writes
REPETITIONS = 5
BOUND = 0.05


def random_records(trials: int) -> list[TrialRecord]:
    """Return records like those of AdamW: all settings are searched, and every number has all its digits."""
    random.seed(0)
    records = []
    for trial, settings in enumerate(draw_settings(parse("adamw"), trials, seed=0)):
        evaluations = [Evaluation(step, random.random(), random.random()) for step in SCHEDULE.evaluation_steps()]
        result = TrainingResult(
            "ok",
            train=random.random(),
            validation=random.random(),
            test=random.random(),
            test_error=random.random(),
            seconds=TRIAL_S,
            evaluations=evaluations,
        )
        records.append(TrialRecord("adamw", "search", 0, trial, random.getrandbits(32), settings, result))
    return records


def write_and_read(records: list[TrialRecord], batch: int) -> dict[str, float]:
    """Write records to a new file and read them back; return the seconds of each and the bytes of the file."""
    # Beside this script: a folder for temporary files may lie in memory.
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        store = Store(Path(folder) / "store.sqlite")
        comparison = store.create("key", workload=WORKLOAD, contenders=[], plan=PLAN, environment={})
        began = time.perf_counter()
        for start in range(0, len(records), batch):
            store.add(comparison.id, records[start : start + batch])
        add_s = time.perf_counter() - began
        began = time.perf_counter()
        stored = store.trials(comparison.id)
        read_s = time.perf_counter() - began
        assert stored == records
        store.close()
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {"add_s": add_s, "read_s": read_s, "bytes": size}


def summarize(batch: int, runs: list[dict[str, float]], trials: int) -> dict[str, Any]:
    """Return the median and the worst repetition with one size of batch, and shares of the time of the trainings."""
    seconds = [run["add_s"] + run["read_s"] for run in runs]
    shares = {
        workers: {
            "median": statistics.median(seconds) * workers / (trials * TRIAL_S),
            "worst": max(seconds) * workers / (trials * TRIAL_S),
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
    arguments = parser.parse_args()
    records = random_records(arguments.trials)
    runs: dict[int, list[dict[str, float]]] = {batch: [] for batch in BATCHES}
    for _ in range(arguments.repetitions):
        for batch in BATCHES:
            runs[batch].append(write_and_read(records, batch))
    rows = [summarize(batch, repetitions, arguments.trials) for batch, repetitions in runs.items()]
    record = {
        "trials": arguments.trials,
        "trial_s": TRIAL_S,
        "looks": SCHEDULE.num_evaluations,
        "repetitions": arguments.repetitions,
        "bound": BOUND,
        "rows": rows,
        "machine": machine(),
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    for row in rows:
        shares = ", ".join(
            f"{share['median']:.3%} (worst {share['worst']:.3%}) with {workers} workers"
            for workers, share in row["share_by_workers"].items()
        )
        print(f"batches of {row['batch']}: {shares}; {row['bytes'] / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
