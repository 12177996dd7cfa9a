"""The conformance kit on the device: `check_optimizer` for every optimizer of ours, as on the CPU."""

from functools import partial

from benchmarks.correctness.conformance import accepted_shapes, factory, optimizer_classes
from benchmarks.gpu.session import Session
from cases.curvature import SELF_ESTIMATING
from thalweg.testing import CHECKS, check_optimizer

# Checks that an optimizer fails on the CPU, too. The learning rate of Rprop is that of its first step alone.
KNOWN = {"Rprop": ["obeys_schedulers"]}
_IN_SHORT = ("is_an_optimizer", "leaves_gradients_alone", "resumes_exactly", "takes_single_numbers", "learns")
_NAMES_IN_SHORT = ("AdamW", "LAMB", "Muon", "Adafactor")


def run(session: Session) -> None:
    """Check all optimizers."""
    for name, kind in sorted(optimizer_classes("thalweg.optim").items()):
        if not session.stub or name in _NAMES_IN_SHORT:
            counts = session.check(name, partial(_check, session, name, kind))
            if counts is not None:
                session.result(name, counts)


def _check(session: Session, name: str, kind: type) -> dict[str, int]:
    checks = [check for check in CHECKS if check not in KNOWN.get(name, [])]
    shapes = accepted_shapes(kind)
    assert shapes is not None, f"{name} cannot be made from parameters alone"
    result = check_optimizer(
        factory(SELF_ESTIMATING.get(kind, kind)),
        shapes=shapes,
        only=[check for check in checks if check in _IN_SHORT] if session.stub else checks,
        device=session.device,
        isolate=False,
    )
    failures = "; ".join(f"{failure.check}: {failure.detail}" for failure in result.failures)
    assert not failures, failures
    outcomes = [check.outcome for check in result.checks]
    return {outcome: outcomes.count(outcome) for outcome in ("passed", "refused", "skipped")}
