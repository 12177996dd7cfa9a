"""Run the proofs and measurements on a GPU: `python -m benchmarks.gpu [PART...] [--stub] [--out FOLDER]`.

Without parts, all run in order; they take less than ten minutes on an H100. `--stub` runs the same parts on the CPU,
with the stub of the driver and small sizes: it shows that they run, and measures nothing. Each part writes a record,
`gpu_PART.json`.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks.gpu import packages, runner
from benchmarks.gpu.parts import PARTS

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run the parts and return the exit code: 0 if no check failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all if none is named)")
    parser.add_argument("--device", default="cuda", help="the device (cuda)")
    parser.add_argument("--stub", action="store_true", help="use the stub of the driver, on the CPU")
    parser.add_argument(
        "--out", type=Path, help="folder of the records (benchmarks/records; build/gpu-stub with --stub)"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        parser.error(f"a part must be one of {', '.join(PARTS)}, got {', '.join(unknown)}")
    out = arguments.out or (ROOT / "build" / "gpu-stub" if arguments.stub else ROOT / "benchmarks" / "records")
    out.mkdir(parents=True, exist_ok=True)
    environment = runner.environment(ROOT, packages.unpack_wheels())
    records = []
    for name in arguments.parts or [name for name, part in PARTS.items() if not part.only_by_name]:
        record = runner.run_part(name, out, device=arguments.device, stub=arguments.stub, environment=environment)
        (out / f"gpu_{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        records.append(record)
    print("\n" + "\n".join(runner.overview(records)), flush=True)
    print(f"records: {os.path.relpath(out)}/gpu_*.json")
    return int(any(record["failed"] or record["outcome"] not in ("finished", "skipped") for record in records))


if __name__ == "__main__":
    sys.exit(main())
