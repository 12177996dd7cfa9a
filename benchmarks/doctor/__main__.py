"""The command ``python -m benchmarks.doctor verify``: every case is what it says, on several seeds."""

import argparse
import json
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.doctor.faults import CASES
from benchmarks.doctor.verify import verify
from thalweg.bench.records import machine

RECORD = Path(__file__).parents[1] / "records" / "doctor_cases.json"


def main() -> None:
    """Parse the command line and verify."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("verify", help="train every case, sick and cured, and write the record")
    command.add_argument("--only", nargs="+", default=[""], help="parts of the names of cases")
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--workers", type=int, default=2)
    command.add_argument("--out", type=Path, default=RECORD)
    arguments = parser.parse_args()
    names = [name for name in CASES if any(part in name for part in arguments.only)]
    seeds = range(arguments.seeds)
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        results = []
        for name, outcome in zip(names, pool.map(_verified, names, [seeds] * len(names)), strict=True):
            print(name, "as said" if outcome["as_said"] else "NOT AS SAID", _numbers(outcome), flush=True)
            results.append(outcome)
    if names == list(CASES):
        arguments.out.write_text(json.dumps({"machine": machine(), "cases": _finite(results)}, indent=1) + "\n")
    wrong = sum(not outcome["as_said"] for outcome in results)
    print(f"{len(results)} cases, {wrong} not as said")
    raise SystemExit(1 if wrong else 0)


def _verified(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    return verify(CASES[name], seeds)


def _numbers(outcome: dict[str, Any]) -> str:
    texts = []
    for original, cured in zip(outcome["original"], outcome["cured"] or [None] * len(outcome["original"]), strict=True):
        text = f"loss {original['first_loss']:.3g} to {original['last_loss']:.3g}, metric {original['metric']:.3f}"
        if cured is not None:
            text += f", cured {cured['metric']:.3f}"
        texts.append(f"{text} (goal {original['goal']})")
    return "; ".join(texts)


def _finite(value: Any) -> Any:
    """Return plain JSON: numbers that are not finite become None, others have six digits."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


if __name__ == "__main__":
    main()
