"""Shared by the tests of other libraries' trainers."""

import gc
from collections.abc import Iterator

import pytest

from thalweg.diagnosis.frozen_heap import frozen_heap


@pytest.fixture(autouse=True, scope="module")
def _quick_collections() -> Iterator[None]:
    """Leave what exists out of garbage collections: trainers collect at each start."""
    gc.collect()
    with frozen_heap():
        yield
