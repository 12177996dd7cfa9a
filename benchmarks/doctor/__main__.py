"""The command ``python -m benchmarks.doctor``: verify the trainings, judge diagnoses on them, summarize the results."""

import argparse
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

from benchmarks.doctor.judging.judge import Patient, patients
from benchmarks.doctor.rows import BENCH, ROOT, RUNS, Row, append_row, case_fingerprint, fingerprint, read_rows
from benchmarks.doctor.summary import RECORD, by_half, lines, numbers, rule_numbers, summarize, wrong
from benchmarks.doctor.trainings.cases import Case
from benchmarks.doctor.worker import Work, cases_of, run_one
from thalweg.bench.records import machine

DIAGNOSIS = ROOT / "src" / "thalweg" / "diagnosis"


def main() -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("verify", "train every case, sick and cured"),
        ("judge", "diagnose every case, sick and cured"),
        ("rules", "run the published rules on every case, sick and cured"),
        ("summarize", "write the record of all rows"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--exam", type=Path, help="folder of sick trainings of another bench, instead of ours")
        if name == "summarize":
            command.add_argument("--record", type=Path, default=RECORD)
            continue
        command.add_argument("--only", nargs="+", default=[""], help="parts of the names of cases")
        command.add_argument("--kinds", nargs="+", help="kinds of faults")
        command.add_argument("--states", nargs="+", default=["sick", "cured", "healthy"])
        command.add_argument("--half", choices=["open", "held_out"])
        command.add_argument("--limit", type=int, help="at most so many, the first ones")
        command.add_argument("--sample", type=int, help="so many, spread over kinds and halves, the same each time")
        command.add_argument("--seeds", type=int, default=3, help="seeds of each case, of verify")
        command.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.command == "summarize":
        _summarize(arguments)
    else:
        _work(arguments)


def rows_path(command: str, exam: Path | None) -> Path:
    """Return the file of a command's rows."""
    return RUNS / (f"{command}.jsonl" if exam is None else f"{command}_{exam.resolve().name}.jsonl")


def current(command: str, rows: Sequence[Row], cases: Mapping[str, Case]) -> list[Row]:
    """Return the last row of each piece of work that comes from the sources as they are."""
    hashes = {key: sources(command, case) for key, case in cases.items()}
    return list({(row["key"], row["seed"]): row for row in rows if row["sources"] == hashes.get(row["case"])}.values())


def sources(command: str, case: Case) -> str:
    """Return a hash of the sources on which a result of a command for a case depends."""
    return f"{case_fingerprint(case)} {_command_sources(command)}"


@cache
def _command_sources(command: str) -> str:
    files = {"verify": ["verify.py"], "judge": ["judge.py"], "rules": ["published_rules.py"]}[command]
    return fingerprint([BENCH / "judging" / name for name in files] + ([DIAGNOSIS] if command == "judge" else []))


def _work(arguments: argparse.Namespace) -> None:
    command, path = arguments.command, rows_path(arguments.command, arguments.exam)
    cases = cases_of(arguments.exam)
    chosen = [
        patient
        for patient in patients(list(cases.values()))
        if any(part in patient.key for part in arguments.only)
        and (arguments.kinds is None or patient.case.kind in arguments.kinds)
        and (arguments.half is None or patient.case.held_out == (arguments.half == "held_out"))
        and patient.state in arguments.states
    ]
    if arguments.sample is not None:
        chosen = sample(chosen, arguments.sample)
    chosen = chosen[: arguments.limit]
    if command == "verify":
        work = [(case, seed) for case in dict.fromkeys(p.case.key for p in chosen) for seed in range(arguments.seeds)]
    else:
        work = [(patient.key, 0) for patient in chosen]
    every = read_rows(path)
    done = {(row["key"], row["seed"]): row for row in current(command, every, cases)}
    left = [item for item in work if item not in done]
    mean = fmean([row["wall_s"] for row in every[-100:]]) if every else 10.0
    print(
        f"{len(work)} chosen, {len(left)} left, about {len(left) * mean / arguments.workers / 60:.1f} min", flush=True
    )
    began = time.monotonic()
    for count, row in enumerate(_results(partial(run_one, command, arguments.exam), left, arguments.workers), 1):
        append_row(path, row | {"sources": sources(command, cases[row["case"]])})
        done[row["key"], row["seed"]] = row
        minutes = (time.monotonic() - began) / count * (len(left) - count) / 60
        print(f"{count}/{len(left)}, {minutes:.1f} min left:", _text(command, row), flush=True)
    _print_totals(command, [done[item] for item in work])


def sample(chosen: Sequence[Patient], count: int) -> list[Patient]:
    """Return so many patients: in turn one of each half, state and kind, at random with a fixed seed."""
    strata: dict[tuple[bool, str, str], list[Patient]] = {}
    for patient in chosen:
        strata.setdefault((patient.case.held_out, patient.state, patient.case.kind), []).append(patient)
    generator = random.Random(0)
    for stratum in strata.values():
        generator.shuffle(stratum)
    result: list[Patient] = []
    while len(result) < min(count, len(chosen)):
        for stratum in sorted(strata.values(), key=lambda stratum: -len(stratum)):
            if stratum and len(result) < count:
                result.append(stratum.pop())
    return result


def _results(function: Callable[[Work], Row], work: Sequence[Work], workers: int) -> Iterator[Row]:
    if workers == 1:
        yield from map(function, work)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(function, item) for item in work]):
            yield future.result()


def _text(command: str, row: Row) -> str:
    if command == "judge":
        return f"{row['key']}: {wrong(row) or 'right'} ({row.get('times', 0):.0f} times, {row['wall_s']:.0f} s)"
    if command == "rules":
        return f"{row['key']}: {', '.join(row['fired'])}"
    text = f"{row['key']} seed {row['seed']}: {'as said' if row['as_said'] else 'NOT AS SAID'}: "
    text += "loss {first_loss:.3g} to {last_loss:.3g}, metric {metric:.3f} of {goal}".format(**row["original"])
    return text if row["cured"] is None else text + ", cured {metric:.3f}".format(**row["cured"])


def _print_totals(command: str, rows: Sequence[Row]) -> None:
    if command == "verify":
        failed = sorted({row["case"] for row in rows if not row["as_said"]})
        print(f"{len({row['case'] for row in rows})} cases, {len(failed)} not as said: {' '.join(failed)}")
    else:
        print("\n".join(lines(by_half(rows, numbers if command == "judge" else rule_numbers))))


def _summarize(arguments: argparse.Namespace) -> None:
    cases = cases_of(arguments.exam)
    rows = {
        name: current(name, read_rows(rows_path(name, arguments.exam)), cases) for name in ("judge", "rules", "verify")
    }
    count = len(list(patients(list(cases.values()))))
    more = {"machine": machine(), "patients": count, "judged": len(rows["judge"])}
    record = summarize(rows["judge"], rows["rules"], rows["verify"], more, arguments.record)
    for name in ("diagnosis", "published_rules"):
        print(name, *lines(record[name]), sep="\n")


if __name__ == "__main__":
    main()
