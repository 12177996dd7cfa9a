"""`make gpu`: whatever happens to a part, its record has all that was measured, and the other parts run."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import journal, packages, runner
from benchmarks.gpu.parts import PARTS, Part

ROOT = Path(__file__).parents[2]
TROUBLED = """
import os, signal, time
from benchmarks.gpu import session as sessions
from benchmarks.gpu.session import SkippedError

def fail():
    raise ValueError("first line\\nsecond line")

def skip():
    raise SkippedError("it does not apply")

def crash():
    os.kill(os.getpid(), signal.SIGKILL)

def lose_the_device():
    sessions.devices.is_lost = lambda device: True
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

def run(session):
    session.check("passes", lambda: None)
    session.check("fails", fail)
    session.check("is skipped", skip)
    session.check("crashes", crash)
    session.result("number", float("nan"))
    session.check("loses the device", lose_the_device)
    session.check("passes afterwards", lambda: None)
    raise KeyError("of the part itself")
"""
HANGING = """
import subprocess, sys, time

def run(session):
    session.check("passes", lambda: None)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    session.result("child", child.pid)
    time.sleep(1000)
"""


def run_module(name: str, text: str, seconds: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setitem(PARTS, name, Part("", seconds, module=name))
    environment = runner.environment(ROOT, None)
    environment["PYTHONPATH"] += os.pathsep + str(folder)
    return runner.run_part(name, folder, device="cuda", stub=True, environment=environment)


def test_a_crash_a_lost_device_and_an_error_of_the_part_are_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    record = run_module("troubled", TROUBLED, 300, tmp_path, monkeypatch)
    assert record["outcome"] == "finished"
    assert record["passed"] == 2
    errors = {failure["name"]: failure["error"] for failure in record["failed"]}
    assert errors == {
        "fails": "ValueError: first line / second line (troubled.py:7)",
        "crashes": "it ended its process by signal SIGKILL",
        "loses the device": "RuntimeError: CUDA error: an illegal memory access was encountered (troubled.py:17)",
        "troubled itself": "KeyError: 'of the part itself' (troubled.py:27)",
    }
    assert record["skipped"] == [{"name": "is skipped", "reason": "it does not apply"}]
    assert record["results"] == {"number": "nan"}
    assert record["hardware"]["device"] == "the driver stub, on the CPU"
    assert {"processor", "torch", "date", "gpu"} <= record["hardware"].keys()
    assert "FAILED crashes: it ended its process by signal SIGKILL" in capfd.readouterr().out
    json.dumps(record, allow_nan=False)


class JumpingClock:
    """The clock of the runner. It jumps to the end of the part when the part has started a child."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def monotonic(self) -> float:
        journals = self._folder.glob(".gpu_hanging_*/*.jsonl")
        return time.monotonic() + (1e6 if any('"child"' in path.read_text() for path in journals) else 0.0)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def test_a_part_that_hangs_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "time", JumpingClock(tmp_path))
    record = run_module("hanging", HANGING, 300, tmp_path, monkeypatch)
    assert record["outcome"] == "timed out"
    assert record["passed"] == 1
    child = record["results"]["child"]
    try:
        for _ in range(1000):  # until the system has ended it
            state = Path(f"/proc/{child}/stat")
            if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
                break
            time.sleep(0.01)
        else:
            raise AssertionError("the child of the part is still running")
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    assert "hanging: timed out" in capfd.readouterr().out


def test_a_device_that_does_not_exist_is_the_reason_of_a_record(tmp_path: Path) -> None:
    environment = runner.environment(ROOT, None)
    record = runner.run_part("tune", tmp_path, device="cuda:7", stub=False, environment=environment)
    assert record["outcome"] == "failed"
    assert "the device must exist, got 'cuda:7'" in record["reason"]
    assert runner.overview([record])[0].startswith("tune         failed: ")


def test_a_missing_package_skips_the_part_that_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "tune", Part("", 10, needs=("torch", "no_such_package")))
    record = runner.run_part("tune", tmp_path, device="cuda", stub=True, environment=runner.environment(ROOT, None))
    assert (record["outcome"], record["reason"]) == ("skipped", "missing: no_such_package. Run: make gpu-wheels")


def test_parts_run_with_the_stub_and_write_their_records(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "bench", "tune", "--stub", "--out", str(tmp_path)]
    completed = subprocess.run(
        command, cwd=ROOT, env=runner.environment(ROOT, None), capture_output=True, text=True, timeout=300, check=False
    )
    records = {name: json.loads((tmp_path / f"gpu_{name}.json").read_text()) for name in ("bench", "tune")}
    assert completed.returncode == 0, completed.stdout + completed.stderr
    measured = records["bench"]["results"]["adamw on small, float32"]
    names = {measurement["name"] for measurement in measured["measured"]}
    assert {"torch fused", "thalweg", "thalweg captured", "torch foreach"} <= names
    assert len(records["tune"]["results"]["small: step ÷ torch fused"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu_bench.json", "gpu_tune.json"]
    unknown = subprocess.run([*command[:3], "benhc"], cwd=ROOT, env=runner.environment(ROOT, None), capture_output=True)
    assert unknown.returncode == 2
    assert b"a part must be one of cases, kit" in unknown.stderr


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl"
    journal.append(path, event="start", name="first")
    with path.open("a") as lines:
        lines.write('{"event": "passed", "na')
    events = journal.read([path])
    assert journal.interrupted(events) == ["first"]
    assert journal.finished(events) == frozenset()


def test_wheels_stand_in_for_missing_packages_only(tmp_path: Path) -> None:
    import zipfile

    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("json", "package_that_is_missing"):
        with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", "")
            archive.writestr(f"{name}-1.dist-info/METADATA", "")
    target = packages.unpack_wheels(folder)
    assert target is not None
    assert (target / "package_that_is_missing" / "__init__.py").exists()
    assert not (target / "json").exists()
    (folder / "package_that_is_missing-1-py3-none-any.whl").unlink()
    assert packages.unpack_wheels(folder) is None
