"""Fixtures of the engine's tests."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from thalweg.engine import backends
from thalweg.engine.kernels import kernel_cache, library_cache


def _end_compilations() -> None:
    """Wait for every kernel that is compiled in the background, whichever test began it."""
    for thread in threading.enumerate():
        if thread.name.startswith("thalweg-compiler"):
            thread.join()


@pytest.fixture
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine, and a process, that have never compiled a kernel."""
    _end_compilations()  # what an earlier test began would be built in this folder, and counted
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernel_cache, "_KERNELS", {})
    monkeypatch.setattr(kernel_cache, "builds", [])
    monkeypatch.setattr(backends, "_WARNINGS", set())
    library_cache._log_once.cache_clear()
    yield tmp_path
    _end_compilations()  # while the folder is there
