"""Testing: a conformance kit for anyone's optimizer.

    from thalweg.testing import check_optimizer

    found = check_optimizer(lambda params: torch.optim.AdamW(params, lr=1e-2))
    print(found)
    assert found.passed

Each check is one thing that users of `torch.optim` count on and that a released library has got wrong. None knows a
formula: what is compared is an optimizer with itself under another circumstance (resumed, late, copied, maximized),
or with a reference that is given.
"""

from thalweg.testing.conformance import CHECKS, Conformance, Finding, check_optimizer
from thalweg.testing.kit import Factory

__all__ = ["CHECKS", "Conformance", "Factory", "Finding", "check_optimizer"]
