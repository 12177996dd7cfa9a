"""A process of a part: `python -m benchmarks.gpu.worker MODULE --journal FILE --shard 0/8 --seconds 60`."""

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

from benchmarks.gpu import journal, packages
from benchmarks.gpu.runner import DEVICE_LOST


def main() -> int:
    """Run the share of a part, or answer a question of the runner."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module", nargs="?")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--stub", action="store_true")
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--hardware", action="store_true")
    parser.add_argument("--missing", nargs="*")
    parser.add_argument("--placeholders", nargs="*", default=[])
    arguments = parser.parse_args()
    if arguments.missing is not None:
        print(json.dumps(packages.missing(tuple(arguments.missing))))
        return 0
    deadline = time.monotonic() + arguments.seconds
    packages.add_placeholders(tuple(arguments.placeholders))
    from benchmarks.gpu import hardware, stub  # after the placeholders: these import thalweg
    from benchmarks.gpu.session import DeviceLostError, Session
    from thalweg.engine.core import devices

    device = stub.device() if arguments.stub else devices.check(arguments.device)
    if arguments.hardware:
        print(json.dumps(hardware.describe(device, stub=arguments.stub)))
        return 0
    devices.use(device)
    number, count = (int(text) for text in arguments.shard.split("/"))
    session = Session(
        device,
        stub=arguments.stub,
        events=arguments.journal,
        deadline=deadline,
        shard=(number, count),
        finished=journal.finished(journal.read([arguments.journal])),
    )
    try:
        importlib.import_module(arguments.module).run(session)
    except DeviceLostError:
        return DEVICE_LOST
    except Exception as error:  # the part itself is wrong; what it has measured is kept
        traceback.print_exc()
        from benchmarks.gpu.session import describe

        journal.append(arguments.journal, event="failed", name=f"{arguments.module} itself", error=describe(error))
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # after an error of the device, the handlers of torch may wait without end
