"""Captured and default steps are compared to the bit, so both compute the same sums."""

import pytest

from thalweg.rules.math import matrices


@pytest.fixture(autouse=True)
def unfused_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute all sums by themselves: coefficients on a device are no arguments of a fused product."""
    monkeypatch.setattr(matrices, "_fuses_sums", lambda x, products: False)
