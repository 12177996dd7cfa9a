"""Facts about optimizers and about comparing them, each measured anew: `python benchmarks/facts/run.py`.

Writes `benchmarks/records/facts.json`; about five minutes on two cores. A fact is a file in this folder with a function
`measure`, which returns the claim, its setting and the measured values by name. Means have intervals.
"""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RECORD = HERE.parent / "records" / "facts.json"
FACTS = (
    "edge_of_stability",
    "shared_rate",
    "naive_tests",
    "winners_curse",
    "decayed_schedule",
    "closed_form",
    "tuned_descent",
    "halving",
)


def main() -> None:
    """Measure the facts that the command line names, or all, and write the record of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("facts", nargs="*", metavar="FACT", help=f"of {', '.join(FACTS)} (default: all)")
    names = parser.parse_args().facts
    sys.path[:0] = [str(HERE), str(HERE.parent / "calibration")]
    facts = []
    for name in names or FACTS:
        began = time.perf_counter()
        fact = importlib.import_module(name).measure()
        facts.append({"fact": name, **fact, "seconds": round(time.perf_counter() - began, 1)})
        print(json.dumps(facts[-1], indent=1))
    if not names:
        RECORD.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
