"""Workers that are forks, or fresh processes."""

import pytest

from thalweg.comparison.execution import worker_pool
from thalweg.comparison.planning import num_workers


@pytest.fixture
def _forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork, whatever threads the test runner has; and let no worker hang because the machine is busy."""
    monkeypatch.setattr(worker_pool, "why_no_fork", lambda: "")
    monkeypatch.setattr(num_workers, "why_no_fork", lambda: "")
    monkeypatch.setattr(worker_pool, "MIN_TIMEOUT_S", 1e4)


@pytest.fixture
def fresh(_forks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in fresh processes instead of forks."""
    monkeypatch.setattr(worker_pool, "why_no_fork", lambda: "the test forbids it")
    monkeypatch.setattr(num_workers, "why_no_fork", lambda: "the test forbids it")
