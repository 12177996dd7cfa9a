"""Shared by all tests: one thread each, since the tests themselves run side by side."""

import os

# For the processes that tests start, too: on a busy machine threads that wait for one another cost many times the work.
# Before torch is imported, which reads it.
os.environ["OMP_NUM_THREADS"] = "1"

import signal

import pytest
import torch

# A shell starts a job in the background with Ctrl-C ignored, and the tests that raise it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Files with the longest tests, which begin first: no worker is left alone with a long one in the end.
LONGEST = ("test_killed.py", "test_compare.py", "test_worker_pool.py", "test_cli.py", "test_documents.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first; the others keep their order."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
