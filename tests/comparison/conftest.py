"""A fake accelerator in the place of CUDA."""

import pytest

from cases.fake_accelerator import FakeAccelerator
from thalweg.engine.core import devices


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAccelerator:
    accelerator = FakeAccelerator()
    monkeypatch.setitem(devices.ACCELERATORS, "cuda", accelerator)
    return accelerator
