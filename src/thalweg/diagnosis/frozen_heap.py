"""Garbage collections that pass over what existed before: in a notebook or a test run one may take seconds."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from thalweg.engine.core import devices


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Leave the objects that exist out of garbage collections in a ``with`` block.

    A collection visits every object of the process. Its time says nothing of a training, and it may come in any run.
    Garbage that exists keeps its memory until the end of the block; on an accelerator, where memory is scarce, it is
    freed first. At the end nothing stays frozen, nor does what the user froze before.

    Example:
        >>> import gc
        >>> with frozen_heap():
        ...     gc.get_freeze_count() > 10_000
        True
        >>> gc.get_freeze_count() > 10_000
        False
    """
    devices.release_memory(devices.available()[0])
    try:
        gc.freeze()
        yield
    finally:
        gc.unfreeze()
