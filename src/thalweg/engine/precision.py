"""Precision: in which dtype a rule computes.

Half precisions are computed in float32 and rounded once, when the parameter is written; their state stays float32.
"""

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that arithmetic and state have for parameters of this dtype."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
