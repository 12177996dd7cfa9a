"""Seeded blocks of code: every common source of randomness follows from one seed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from thalweg.engine.core import devices


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's random numbers in a ``with`` block, and restore their states at its end.

    The generators of all devices are seeded. A device draws other numbers than the CPU from the same seed.

    Args:
        seed: The seed of all of them, from 0 to 2³² - 1.

    Example:
        >>> import torch
        >>> from thalweg.tasks import seeded
        >>> with seeded(0):
        ...     first = torch.rand(1)
        >>> with seeded(0):
        ...     second = torch.rand(1)
        >>> first.equal(second)
        True
    """
    with restored_random_states():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield


@contextmanager
def restored_random_states() -> Iterator[None]:
    """Restore the states of Python's, numpy's and torch's random numbers, of all devices, at the end of the block."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with devices.restored_random_states():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
