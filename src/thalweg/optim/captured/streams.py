"""Streams: whether work on the current stream is captured into a graph."""

import torch


def is_capturing() -> bool:
    """Return True if the work on the current CUDA stream is captured. It neither waits nor initializes CUDA."""
    is_initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # of torch
    return is_initialized and torch.cuda.is_current_stream_capturing()
