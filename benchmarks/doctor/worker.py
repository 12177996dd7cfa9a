"""One piece of work of a command, in this process or in a worker."""

import time
from pathlib import Path

from benchmarks.doctor.judging.exam import read_exam
from benchmarks.doctor.judging.judge import Patient, judge
from benchmarks.doctor.judging.published_rules import apply_rules
from benchmarks.doctor.judging.verify import verify
from benchmarks.doctor.rows import Row
from benchmarks.doctor.trainings.cases import Case
from benchmarks.doctor.trainings.faults import CASES

Work = tuple[str, int]  # a case or a patient, and a seed


def cases_of(exam: Path | None) -> dict[str, Case]:
    """Return the cases of this bench, or of an exam."""
    return CASES if exam is None else {case.key: case for case in read_exam(exam)}


def run_one(command: str, exam: Path | None, work: Work) -> Row:
    """Verify, judge, or apply the rules."""
    key, seed = work
    began = time.perf_counter()
    cases = cases_of(exam)
    if command == "verify":
        row = verify(cases[key], seed)
    else:
        case, state = key.rsplit("/", 1)
        row = {"judge": judge, "rules": apply_rules}[command](Patient(cases[case], state))
    return row | {"key": key, "seed": seed, "wall_s": time.perf_counter() - began}
