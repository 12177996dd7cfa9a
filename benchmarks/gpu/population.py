"""Populations on the device: trainings a second, in a graph and one by one, beside the CPU of the machine."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.session import Session

SCRIPT = Path(__file__).parents[1] / "speed" / "population.py"
BOUNDS = {"one by one": 50.0, "population, 2 cores": 5.0}


def run(session: Session) -> None:
    """Run `benchmarks/speed/population.py` on the device, and compare it with the bounds."""
    record = session.check("population of 128", lambda: _measure(session))
    if record is None:
        return
    session.result("population of 128", record)
    if session.stub:
        return
    for name, bound in BOUNDS.items():
        session.target(f"trainings a second ÷ {name}", record["gains"][name], at_least=bound)
    session.check("recorded in a graph", lambda: _assert_recorded(record))


def _measure(session: Session) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        command = [sys.executable, str(SCRIPT), "--device", str(session.device), "--record", str(path)]
        command += ["--rounds", "2" if session.stub else "12"]
        completed = subprocess.run(
            [*_with_placeholders(command)],
            capture_output=True,
            text=True,
            timeout=max(10.0, session.time_left()),
            check=False,
        )
        assert completed.returncode == 0, " / ".join(completed.stderr.strip().splitlines()[-3:])
        session.say(completed.stdout.strip())
        return json.loads(path.read_text())


def _with_placeholders(command: list[str]) -> list[str]:
    """Return a command that runs a script after the placeholders of this part were added."""
    python, script, *arguments = command
    code = (
        "import runpy, sys; from benchmarks.gpu import packages; from benchmarks.gpu.parts import PARTS; "
        f"packages.add_placeholders(PARTS['population'].placeholders); sys.argv = {[script, *arguments]!r}; "
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    return [python, "-c", code]


def _assert_recorded(record: dict[str, Any]) -> None:
    execution = str(record.get("execution", ""))
    assert "graph" in execution, f"the population ran without a graph: {execution}"
