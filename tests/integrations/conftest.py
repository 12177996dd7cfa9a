"""Shared by the tests of other libraries' trainers."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _quick_collections() -> Iterator[None]:
    """Leave what exists out of garbage collections: trainers collect at each start."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
