"""Checks that cases of distributed training share."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from thalweg.errors import ParameterError

TOLERANCE = 1e-12  # relative; the sums of gradients are added up in another order


def check_close(actual: Tensor, expected: Tensor) -> None:
    error = float((actual - expected).abs().max() / expected.abs().max())
    assert error < TOLERANCE, error


def check_refused(words: str, create: Callable[[], Any], error: type[Exception] = ParameterError) -> None:
    """Check that an error has these words."""
    with pytest.raises(error, match=re.escape(words)):
        create()


def whole_values(params: Iterable[Any]) -> Tensor:
    """Return all elements of all parameters, in each process."""
    wholes = [param.full_tensor() if isinstance(param, DTensor) else param for param in params]
    return torch.cat([whole.detach().flatten() for whole in wholes])
