"""Blocks of code in which a wait for the device is an error."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def forbidden(device: torch.device) -> Iterator[None]:
    """Raise an error where code in the block waits for a CUDA device, by torch's sync debug mode."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
