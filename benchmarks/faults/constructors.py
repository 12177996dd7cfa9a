"""Call constructors with unusual values, and count the calls that work or raise an error of thalweg.

    python benchmarks/faults/constructors.py [NUM_CALLS]

writes `benchmarks/records/faults_constructors.json`. The calls are those of `cases.constructor_calls`; the test suite
makes a few hundred of them. A call that takes more than a second, or needs more than a few gigabytes, has not survived.
"""

import argparse
import json
import resource
import time
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path

import torch._dynamo  # noqa: F401 (torch imports it at the first optimizer, which takes seconds)

from cases.constructor_calls import calls
from thalweg.errors import ThalwegError

RECORD = Path(__file__).parents[1] / "records" / "faults_constructors.json"
SEED = 2
MAX_SECONDS = 1.0
MAX_BYTES = 8 << 30


def main(num_calls: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    for call in islice(calls(SEED), num_calls):
        started = time.process_time()
        try:
            call.run()
            outcome = "worked"
        except ThalwegError:
            outcome = "refused"
        except Exception as error:  # the failures that are looked for
            outcome = f"raised {type(error).__name__}"
        if time.process_time() - started > MAX_SECONDS:
            outcome = "slow"
        outcomes[outcome] += 1
        if outcome not in ("worked", "refused"):
            failures.append(f"{call.description}: {outcome}")
    record = {
        "tried": num_calls,
        "survived": outcomes["worked"] + outcomes["refused"],
        "worked": outcomes["worked"],
        "refused": outcomes["refused"],
        "failures": failures,
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_calls", nargs="?", type=int, default=20_000, help="calls to make (default: %(default)s)")
    main(parser.parse_args().num_calls)
