"""Twenty live comparisons of AdamW with itself (`--control`), as a check on the replays.

`python benchmarks/calibration/live.py` writes `benchmarks/records/live.json`; a few minutes on two cores.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from bank import TASK

import thalweg

RECORD = Path(__file__).parents[1] / "records" / "live.json"
RUNS, BUDGET = 20, "8x24trials"


def main() -> None:
    """Run the comparisons and write the record."""
    runs = []
    for seed in range(RUNS):
        began = time.perf_counter()
        comparison = thalweg.compare(TASK, ["adamw"], control=True, budget=BUDGET, seed=seed)
        ranked = comparison.verdict.ranked
        assert ranked is not None
        runs.append(
            {
                "seed": seed,
                "called_different": len(ranked) == 1,
                "settled": comparison.verdict.settled,
                "worse_by": comparison.contenders[-1].worse_by,
                "trainings": comparison.to_json()["trainings"],
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
        print(runs[-1], file=sys.stderr)
        # Written after each run: the record of an interrupted benchmark is shorter, and still correct.
        RECORD.write_text(json.dumps({"task": TASK.name, "budget": BUDGET, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
