"""Fixtures of the engine's tests."""

from pathlib import Path

import pytest

from thalweg.engine import compiled, ways


@pytest.fixture
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine, and a process, that have never compiled a kernel."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "_FUTURES", {})
    monkeypatch.setattr(compiled, "builds", [])
    monkeypatch.setattr(ways, "_SAID", set())
    return tmp_path
