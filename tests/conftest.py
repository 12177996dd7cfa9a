"""Shared by all tests: one thread each, since the tests themselves run side by side."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
