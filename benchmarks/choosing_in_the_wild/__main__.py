"""The command: ``python -m benchmarks.choosing_in_the_wild search``."""

import argparse
import time
from pathlib import Path

from benchmarks.choosing_in_the_wild import truth
from benchmarks.choosing_in_the_wild.bank import RUNS
from benchmarks.choosing_in_the_wild.trainings import TRAININGS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choosing_in_the_wild", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    search = commands.add_parser("search", help="search the truth; what is in the bank is not repeated")
    search.add_argument("--trainings", nargs="+", default=list(TRAININGS), choices=TRAININGS)
    search.add_argument("--levels", nargs="+", type=int, default=[1, 2, 3])
    search.add_argument("--workers", type=int, default=2)
    search.add_argument("--bank", type=Path, default=RUNS / "bank.jsonl")
    arguments = parser.parse_args()
    began = time.perf_counter()
    levels = [level - 1 for level in arguments.levels]
    for unit in truth.search_all(arguments.bank, arguments.trainings, levels, arguments.workers):
        print(f"{time.perf_counter() - began:.0f} s", *unit, flush=True)


if __name__ == "__main__":
    main()
