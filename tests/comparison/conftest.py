"""A fake accelerator in the place of CUDA, and a made-up clock in the place of the time."""

import pytest

from cases.fake_accelerator import FakeAccelerator
from tests.comparison.fake_time import FakePool, FakeTime
from thalweg.comparison import session
from thalweg.comparison.planning import clock as clocks
from thalweg.comparison.training import trainer
from thalweg.engine.core import devices


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAccelerator:
    accelerator = FakeAccelerator()
    monkeypatch.setitem(devices.ACCELERATORS, "cuda", accelerator)
    return accelerator


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(clocks, "monotonic", fake.read)
    monkeypatch.setattr(trainer, "monotonic", fake.read)
    monkeypatch.setattr(FakePool, "time", fake, raising=False)
    monkeypatch.setattr(session, "WorkerPool", FakePool)
    return fake
