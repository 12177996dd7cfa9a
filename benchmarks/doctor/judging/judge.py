"""Judging: does a diagnosis name the cause, blame the right module, find a cure, and spare healthy trainings?"""

import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks.doctor.judging.equivalent import names_kind, names_place
from benchmarks.doctor.rows import Row
from benchmarks.doctor.trainings.cases import Case
from benchmarks.doctor.trainings.run import Run, measured, train
from thalweg.diagnosis.diagnose import diagnose
from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.tasks import Training

FIRST_SEED = 10  # a diagnosis may use the seeds from here on
FRESH_SEEDS = (1, 2, 3)  # those of our own check of a cure, which no diagnosis has seen
WORKS = 2  # fresh seeds on which a cure must reach the goal
BUDGET = "60s"


@dataclass(frozen=True)
class Patient:
    """A training to diagnose: a sick case, its cured twin, or a healthy one.

    Attributes:
        case: The case.
        state: ``sick``, ``cured`` or ``healthy``.
    """

    case: Case
    state: str

    @property
    def key(self) -> str:
        """Its name in the rows."""
        return f"{self.case.key}/{self.state}"

    @property
    def make(self) -> Callable[[int], Run]:
        """Makes its training from a seed."""
        if self.state != "cured":
            return self.case.make
        assert self.case.cure is not None
        return self.case.cure


def patients(cases: Sequence[Case]) -> Iterator[Patient]:
    """Yield every case and the cured twin of each sick one, but no training twice."""
    seen: set[Callable[[int], Run]] = set()  # methods of equal architectures are equal
    for case in sorted(cases, key=lambda case: case.cure is not None):
        if case.cure is None:
            seen.add(case.make)
            yield Patient(case, "healthy")
        else:
            yield Patient(case, "sick")
            if case.cure not in seen:
                seen.add(case.cure)
                yield Patient(case, "cured")


def judge(patient: Patient) -> Row:
    """Diagnose a patient and compare the findings with the truth."""
    torch.set_num_threads(1)
    case = patient.case
    row: Row = {
        "patient": patient.key,
        "case": case.key,
        "state": patient.state,
        "kind": case.kind if patient.state == "sick" else "healthy",
        "where": list(case.where),
        "held_out": case.held_out,
        "curable": case.curable,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = patient.make(0)
        worked = _processor_time()
        train(run)
        own = (_processor_time() - worked) * 250 / run.steps
        row |= {"own_seconds": own, "goal": run.goal, "metric": measured(run), "steps": run.steps}
        began, worked = time.perf_counter(), _processor_time()
        try:
            diagnosis = diagnose(_training(patient), budget=BUDGET, steps=run.steps)
        except Exception:
            return row | {"error": traceback.format_exc(limit=-4)}
        row["seconds"] = time.perf_counter() - began
        row["times"] = (_processor_time() - worked) / max(own, 1e-3)
        row |= answer_of(diagnosis)
        if patient.state == "sick":
            row |= _right(case, row["findings"])
            row |= _cure_works(patient, diagnosis, run.goal)
    return row


def _processor_time() -> float:
    """Return the processor time of this process and of those that it waited for."""
    return time.process_time() + sum(os.times()[2:4])


def answer_of(diagnosis: Diagnosis) -> Row:
    """Return what a diagnosis says, as plain values."""
    cure = diagnosis.cure
    return {
        "healthy": diagnosis.healthy,
        "findings": [
            {"kind": finding.kind, "where": finding.where, "severity": finding.severity, "since": finding.since}
            for finding in diagnosis.findings
        ],
        "cure": None if cure is None else str(cure.name),
        "cure_verified": cure is not None and bool(cure.verified),
    }


def _training(patient: Patient) -> Callable[[int], Training]:
    def training(seed: int) -> Training:
        return patient.make(FIRST_SEED + seed).training

    return training


def _right(case: Case, findings: Sequence[Row]) -> Row:
    ranks = [rank for rank, finding in enumerate(findings, 1) if names_kind(case.key, finding["kind"])]
    rank = ranks[0] if ranks else None
    place = None if not case.where or rank is None else names_place(case.where, findings[rank - 1]["where"])
    return {"rank": rank, "place_right": place}


def cured_training(training: Training, diagnosis: Diagnosis) -> Training:
    """Return a fresh training with the cure of a diagnosis."""
    from thalweg.diagnosis.changes import CHANGES

    assert diagnosis.cure is not None
    (change,) = (change for change in CHANGES if change.name == diagnosis.cure.name)
    places = [finding.where for finding in diagnosis.findings if finding.kind == diagnosis.cure.kind]
    return change.apply(training, places[0] if places else None)


def _cure_works(patient: Patient, diagnosis: Diagnosis, goal: float) -> Row:
    """Train cured trainings on fresh seeds and compare their metric with the goal."""
    if diagnosis.cure is None:
        return {"cured_metrics": [], "cure_works": False}
    metrics = []
    for seed in FRESH_SEEDS:
        run = patient.make(seed)
        try:
            run.training = cured_training(run.training, diagnosis)
            train(run)
            metrics.append(measured(run))
        except Exception:
            return {"cured_metrics": metrics, "cure_works": False, "cure_error": traceback.format_exc(limit=-4)}
    return {"cured_metrics": metrics, "cure_works": sum(metric >= goal for metric in metrics) >= WORKS}
