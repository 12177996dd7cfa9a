"""Run a part in processes of its own, with a time limit, and make its record whatever happens to them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.gpu import journal, packages
from benchmarks.gpu.parts import PARTS, Part

DEVICE_LOST = 70  # exit code of a process whose device does not work any more
_GRACE_S = 15  # beyond the time of a part, before its processes are ended
_MOST_RESTARTS = 8
_STUB_FACTOR = 6  # of the time of a part: the stub runs on any machine, beside other work


def environment(root: Path, wheels: Path | None) -> dict[str, str]:
    """Return the environment of the processes: this code and torch's own packages first, then those of the wheels."""
    paths = [
        str(root / "src"),
        str(root),
        *filter(None, [os.environ.get("PYTHONPATH")]),
        *([str(wheels)] if wheels else []),
    ]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def run_part(name: str, out: Path, *, device: str, stub: bool, environment: dict[str, str]) -> journal.Record:
    """Run a part and return its record.

    A check that ends its process fails with the reason, and the remaining checks run in a new process. All processes
    end with the part.

    Args:
        name: The part.
        out: The folder of the records; journals of a part that is cut off stay there.
        device: The device.
        stub: True to use the stub of the driver.
        environment: The environment of the processes.
    """
    part, start = PARTS[name], time.monotonic()
    part = part._replace(seconds=part.seconds * (_STUB_FACTOR if stub else 1))
    facts: dict[str, Any] = {"stub": stub, "hardware": _hardware(device, stub, environment["PYTHONPATH"])}
    print(f"\n== {name}: at most {part.seconds} s", flush=True)
    absent = _missing(part, environment)
    if absent or "error" in facts["hardware"]:
        reason = f"missing: {', '.join(absent)}. Run: make gpu-wheels" if absent else facts["hardware"]["error"]
        outcome = "skipped" if absent else "failed"
        record = journal.record(name, [], outcome=outcome, reason=reason, seconds=0.0, **facts)
        print(f"{name}: {outcome}, {reason}", flush=True)
        return record
    with tempfile.TemporaryDirectory(dir=out, prefix=f".gpu_{name}_") as folder:
        outcome = _Processes(
            name, part, Path(folder), ["--device", device, *(["--stub"] if stub else [])], environment
        ).run()
        events = journal.read(sorted(Path(folder).glob("*.jsonl")))
    record = journal.record(name, events, outcome=outcome, seconds=time.monotonic() - start, **facts)
    print("\n".join(journal.summary(record)), flush=True)
    return record


class _Processes:
    """The processes of a part: each has a share of its checks and a journal."""

    def __init__(
        self, name: str, part: Part, folder: Path, arguments: Sequence[str], environment: dict[str, str]
    ) -> None:
        self._name, self._part, self._folder, self._environment = name, part, folder, environment
        self._arguments = arguments
        count = max(1, min(part.processes, (os.cpu_count() or 1)))
        self._count = count
        self._deadline = time.monotonic() + part.seconds
        self._restarts = 0
        self._running = {shard: self._start(shard) for shard in range(count)}

    def run(self) -> str:
        """Wait for the end of all processes and return the outcome of the part."""
        outcome = "finished"
        try:
            while self._running:
                if time.monotonic() > self._deadline + _GRACE_S:
                    self._note_interrupted("it was not at its end when the time of the part was over")
                    return "timed out"
                for shard, process in list(self._running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del self._running[shard]
                    if code and not self._go_on(shard, code):
                        outcome = f"ended by {_reason(code)}"
                time.sleep(0.05)
        finally:
            for process in self._running.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return outcome

    def _journal(self, shard: int) -> Path:
        return self._folder / f"{shard}.jsonl"

    def _start(self, shard: int) -> "subprocess.Popen[bytes]":
        module = self._part.module or f"benchmarks.gpu.{self._name}"
        command = [sys.executable, "-m", "benchmarks.gpu.worker", module, *self._arguments]
        command += ["--placeholders", *self._part.placeholders]
        command += ["--journal", str(self._journal(shard)), "--shard", f"{shard}/{self._count}"]
        command += ["--seconds", f"{self._deadline - time.monotonic():.1f}"]
        # A group of its own, so that whatever it starts can be ended with it.
        return subprocess.Popen(command, env=self._environment, start_new_session=True)

    def _go_on(self, shard: int, code: int) -> bool:
        """Note the check that ended a process, and start another one for the rest. Return False if nothing is left."""
        failed_in_a_check = self._note_interrupted(f"it ended its process by {_reason(code)}", shard)
        if not (failed_in_a_check or code == DEVICE_LOST) or self._restarts == _MOST_RESTARTS:
            return False
        self._restarts += 1
        self._running[shard] = self._start(shard)
        return True

    def _note_interrupted(self, reason: str, shard: int | None = None) -> bool:
        """Let the checks that have no outcome fail with this reason. Return True if there are any."""
        noted = False
        for path in [self._journal(shard)] if shard is not None else sorted(self._folder.glob("*.jsonl")):
            for name in journal.interrupted(journal.read([path])):
                journal.append(path, event="failed", name=name, error=reason)
                noted = True
        return noted


def _reason(code: int) -> str:
    if code == DEVICE_LOST:
        return "an error of the device"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@cache
def _hardware(device: str, stub: bool, python_path: str) -> dict[str, Any]:
    """Return the facts about the device, from a process of its own, or the reason why it cannot be used."""
    environment = os.environ | {"PYTHONPATH": python_path}
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu.worker",
        "--hardware",
        "--device",
        device,
        *(["--stub"] if stub else []),
    ]
    answer = _ask(command, environment)
    return answer if isinstance(answer, dict) else {"error": str(answer)}


def _missing(part: Part, environment: dict[str, str]) -> list[str]:
    """Return the modules that a part needs and its processes cannot import."""
    if not part.needs:
        return []
    answer = _ask([sys.executable, "-m", "benchmarks.gpu.worker", "--missing", *part.needs], environment)
    return answer if isinstance(answer, list) else packages.missing(part.needs)


def _ask(command: Sequence[str], environment: dict[str, str]) -> Any:
    """Return the answer of a worker, which is a line of JSON, or the last line of its error as text."""
    try:
        completed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "the device did not answer in 120 s"
    if completed.returncode:
        return (completed.stderr.strip().splitlines() or [f"exit code {completed.returncode}"])[-1]
    return json.loads(completed.stdout.splitlines()[-1])


def overview(records: Sequence[journal.Record]) -> list[str]:
    """Return the last lines of a run: each part, and all bounds that were missed."""
    lines = []
    for record in records:
        counts = f"{record['passed']} passed, {len(record['failed'])} failed, {len(record['skipped'])} skipped"
        missed = sum(not target["reached"] for target in record["targets"])
        bounds = (
            f", {len(record['targets']) - missed} of {len(record['targets'])} bounds reached"
            if record["targets"]
            else ""
        )
        reason = f": {record['reason']}" if "reason" in record else ""
        lines.append(f"{record['part']:12} {record['outcome']}{reason}, {record['seconds']:.0f} s, {counts}{bounds}")
    return lines
