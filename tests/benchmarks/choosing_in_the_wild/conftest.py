"""The bank that tests of the bench share."""

from pathlib import Path

import pytest

from benchmarks.choosing_in_the_wild.bank import Bank
from tests.benchmarks.choosing_in_the_wild.made import CALLS


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    """Return an empty bank."""
    CALLS.clear()
    return Bank(tmp_path / "bank.jsonl", stored=None)
