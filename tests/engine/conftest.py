"""Fixtures of the engine's tests."""

from concurrent.futures import wait
from pathlib import Path

import pytest

from thalweg.engine import backends
from thalweg.engine.kernels import kernel_cache


@pytest.fixture
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine, and a process, that have never compiled a kernel."""
    wait(
        kernel_cache._FUTURES.values(), timeout=60
    )  # what earlier tests have asked for would be built here, and counted
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernel_cache, "_FUTURES", {})
    monkeypatch.setattr(kernel_cache, "builds", [])
    monkeypatch.setattr(backends, "_SAID", set())
    return tmp_path
