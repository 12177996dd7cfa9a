"""The commands: ``python -m benchmarks.choosing_in_the_wild search``, ``condense``, ``regret`` and ``report``."""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.choosing_in_the_wild import regret_record, truth
from benchmarks.choosing_in_the_wild.bank import RUNS, STORED, Bank, source_of
from benchmarks.choosing_in_the_wild.methods import METHODS
from benchmarks.choosing_in_the_wild.record import condense, lost_truths, rounded
from benchmarks.choosing_in_the_wild.regret import RECORD, judge, load_record, summarize
from benchmarks.choosing_in_the_wild.trainings import TRAININGS
from thalweg.bench.records import machine
from thalweg.engine.core.threads import num_cores


def main() -> None:
    """Parse the command line and run the command."""
    arguments = parser().parse_args()
    {"search": search, "condense": write_record, "regret": measure_regrets, "report": report}[arguments.command](
        arguments
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m benchmarks.choosing_in_the_wild", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    command = commands.add_parser("search", help="search the truth; trainings of the bank are not repeated")
    command.add_argument("--levels", nargs="+", type=int, default=list(range(1, len(truth.LEVELS) + 1)))
    command.add_argument("--workers", type=int, default=2, help="processes, each with one thread")
    command.add_argument("--leaders", type=int, help="search only so many contenders of each training: the best so far")
    _add_common(command)
    command = commands.add_parser("condense", help="write the record and the committed part of the bank")
    command.add_argument("--out", type=Path, default=RECORD)
    _add_common(command)
    command = commands.add_parser("regret", help="run methods and write the regrets of what they recommend")
    command.add_argument("--method", nargs="+", default=["thalweg"], choices=METHODS)
    command.add_argument("--budget", nargs="+", default=["60trainings"])
    command.add_argument("--repeats", type=int, default=5)
    command.add_argument("--count", action="store_true", help="limit the number of trainings, too")
    command.add_argument("--out", type=Path, default=RUNS / "regrets.jsonl", help="rows that are there are kept")
    _add_common(command)
    command = commands.add_parser(
        "report", help="judge the record's rows and new ones by the latest truth, and write it"
    )
    command.add_argument("--rows", type=Path, default=RUNS / "regrets.jsonl")
    command.add_argument("--out", type=Path, default=RECORD.with_name("choosing_in_the_wild_regret.json"))
    command.add_argument("--about", default="", help="a sentence on the machine for the record")
    command.add_argument("--bank", type=Path, default=RUNS / "bank.jsonl")
    return top


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--trainings", nargs="+", default=list(TRAININGS), choices=TRAININGS)
    command.add_argument("--bank", type=Path, default=RUNS / "bank.jsonl")


def search(arguments: argparse.Namespace) -> None:
    """Search the truth."""
    began = time.perf_counter()
    levels = [level - 1 for level in arguments.levels]
    entrants = {name: TRAININGS[name].contenders for name in arguments.trainings}
    if arguments.leaders is not None:
        bank = Bank(arguments.bank, trains=False)
        entrants = {name: tuple(truth.leaders(bank, TRAININGS[name], arguments.leaders)) for name in entrants}
    for unit in truth.search_all(arguments.bank, entrants, levels, arguments.workers):
        print(f"{time.perf_counter() - began:.0f} s", *unit, flush=True)


def write_record(arguments: argparse.Namespace) -> None:
    """Write the record and the committed bank."""
    bank = Bank(arguments.bank, trains=False)
    record = condense(bank, {name: TRAININGS[name] for name in arguments.trainings})
    if arguments.out.exists() and (lost := lost_truths(load_record(arguments.out), record)):
        raise SystemExit(
            f"condense: every truth that {arguments.out} has must still be complete, got none of {', '.join(lost)}. "
            "Their search draws other settings now, for example because a starting point changed. Run search first."
        )
    bank.write(STORED)
    arguments.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def measure_regrets(arguments: argparse.Namespace) -> None:
    """Run methods in turn, so that they meet the same machine, and print the summary."""
    torch.set_num_threads(1)
    bank, record = Bank(arguments.bank), load_record()
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    done = {tuple(row[key] for key in regret_record.KEY) for row in rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for repeat in range(arguments.repeats):
        for name in arguments.trainings:
            for budget in arguments.budget:
                for method in arguments.method:
                    training = TRAININGS[name]
                    if (name, source_of(training.train), method, budget, repeat) in done:
                        continue
                    row = judge(bank, record, training, method, budget, repeat, count=arguments.count)
                    rows.append(row)
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(
                        f"{name}, {budget}, {method}: {row['contender']}, regret {row['regret']:.3f}, "
                        f"{row['trainings']} trainings in {row['wall_s']:.1f} of {row['seconds']:.1f} s",
                        flush=True,
                    )
    for method, budget, numbers in summarize(rows):
        print(method, budget, _in_words(numbers))


def report(arguments: argparse.Namespace) -> None:
    """Write the record of regrets: its rows and the new ones, judged by the latest truth. Print its numbers."""
    old = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"rows": [], "about": ""}
    new = [json.loads(line) for line in arguments.rows.read_text().splitlines()] if arguments.rows.exists() else []
    rows = regret_record.merged(old["rows"], new)
    if not rows:
        raise SystemExit(f"report: {arguments.rows} or {arguments.out} must have rows, got none. Run regret first.")
    torch.set_num_threads(1)
    bank = Bank(arguments.bank)
    record = regret_record.condense(regret_record.judged_again(rows, load_record(), TRAININGS, bank))
    bank.write(STORED)
    facts = {"about": arguments.about or old["about"], "cores": num_cores(), "machine": machine()}
    facts["search"] = regret_record.search_version() if new else old["search"]
    arguments.out.write_text(regret_record.as_json(_without_nan(facts | record)))
    for method, budgets in record["methods"].items():
        for budget, numbers in budgets.items():
            print(method, budget, _in_words(numbers))
    for rival, budgets in record["beside"].items():
        for budget, numbers in budgets.items():
            print(f"beside {rival}", budget, _in_words(numbers))


def _in_words(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.3g}" for key, value in numbers.items())


def _without_nan(value: Any) -> Any:
    """Return a value for JSON, with None for numbers that are not finite, and numbers of six digits.

    Settings keep all digits: the bank knows a training by them.
    """
    if isinstance(value, dict):
        return {key: entry if key == "settings" else _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return rounded(value) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
