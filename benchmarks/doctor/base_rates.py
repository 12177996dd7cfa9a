"""Base rates: is the learning rate of each training that works a good one? ``python -m benchmarks.doctor.base_rates``.

A cured training must be set up well, or a diagnosis that calls its rate too low would be right. Each training
runs at its own rate times some factors; the record says what each reaches.
"""

import argparse
import json
import warnings
from pathlib import Path

import torch

from benchmarks.doctor.judging.judge import FIRST_SEED, Patient, patients
from benchmarks.doctor.rows import ROOT, finite
from benchmarks.doctor.trainings.faults import CASES
from benchmarks.doctor.trainings.run import measured, train

FACTORS = (0.1, 1.0, 10.0)
SEEDS = (FIRST_SEED, FIRST_SEED + 1)  # the first ones that a diagnosis uses
RECORD = ROOT / "benchmarks" / "records" / "doctor_base_rates.json"


def metrics(patient: Patient, factor: float) -> list[float]:
    """Return the metric of a training at its own learning rates times a factor, for each seed."""
    reached = []
    for seed in SEEDS:
        run = patient.make(seed)
        for group in run.training.optimizer.param_groups:
            group["lr"] *= factor
        train(run)
        reached.append(round(measured(run), 4))
    return reached


def main() -> None:
    """Measure the trainings that work, and add them to the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor.base_rates", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of cases")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    record = json.loads(arguments.record.read_text()) if arguments.record.exists() else {}
    for patient in patients(list(CASES.values())):
        if patient.state == "sick" or not any(part in patient.key for part in arguments.only):
            continue
        record[patient.key] = {f"x {factor:g}": metrics(patient, factor) for factor in FACTORS}
        print(patient.key, record[patient.key], flush=True)
        arguments.record.write_text(json.dumps(finite(dict(sorted(record.items()))), indent=1) + "\n")


if __name__ == "__main__":
    main()
