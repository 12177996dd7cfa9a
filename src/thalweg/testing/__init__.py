"""Testing: a conformance kit for any optimizer with PyTorch's interface.

Example:
    >>> import torch
    >>> from thalweg.testing import check_optimizer
    >>> result = check_optimizer(lambda params: torch.optim.SGD(params, lr=1e-2), only=["learns", "calls_hooks"])
    >>> result.passed
    True

Each check tests one thing that users of ``torch.optim`` rely on and that a released library got wrong. No check knows
a formula. A check compares an optimizer with itself under other circumstances (resumed, started late, copied,
maximizing), or with a reference that you pass.
"""

from thalweg.testing.conformance import CHECKS, CheckResult, ConformanceResult, check_optimizer
from thalweg.testing.fixtures import OptimizerFactory

__all__ = ["CHECKS", "CheckResult", "ConformanceResult", "OptimizerFactory", "check_optimizer"]
