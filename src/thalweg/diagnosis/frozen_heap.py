"""Garbage collections that pass over what existed before: in a notebook or a test run one may take seconds."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Leave the objects that exist out of garbage collections in a ``with`` block.

    A collection visits every object of the process. Its time says nothing of a training, and it may come in any run.
    If the user has frozen objects, these stay frozen and nothing else is.

    Example:
        >>> import gc
        >>> with frozen_heap():
        ...     gc.get_freeze_count() > 0
        True
        >>> gc.get_freeze_count()
        0
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
