"""Fixtures of the engine's tests."""

from concurrent.futures import wait
from pathlib import Path

import pytest

from thalweg.engine import backends
from thalweg.engine.kernels import kernel_cache


@pytest.fixture
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine, and a process, that have never compiled a kernel."""
    # Kernels that earlier tests have requested would be compiled here, and counted.
    wait(kernel_cache._FUTURES.values(), timeout=60)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernel_cache, "_FUTURES", {})
    monkeypatch.setattr(kernel_cache, "builds", [])
    monkeypatch.setattr(backends, "_WARNINGS", set())
    return tmp_path
