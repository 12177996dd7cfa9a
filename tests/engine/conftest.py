"""Fixtures of the engine's tests."""

from concurrent.futures import wait
from pathlib import Path

import pytest

from thalweg.engine import compiled, ways


@pytest.fixture
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine, and a process, that have never compiled a kernel."""
    wait(compiled._FUTURES.values(), timeout=60)  # what earlier tests have asked for would be built here, and counted
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "_FUTURES", {})
    monkeypatch.setattr(compiled, "builds", [])
    monkeypatch.setattr(ways, "_SAID", set())
    return tmp_path
