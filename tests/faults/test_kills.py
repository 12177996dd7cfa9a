"""No process survives its parent: it is killed at random moments, by several signals, and nothing is left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCENARIOS = Path(__file__).with_name("kill_scenarios.py")
FORKS, FRESH = 6, 1


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are counted by a call of Linux")
def test_no_process_survives_a_parent_that_is_killed() -> None:
    command = [sys.executable, str(SCENARIOS), "0", str(FORKS), str(FRESH)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["left"] == [0] * (FORKS + FRESH)
    assert max(result["processes"]) >= 3  # a parent with two workers: kills fell on processes at work
