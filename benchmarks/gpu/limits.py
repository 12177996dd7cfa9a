"""The limits of the rules of matrices: from which size stacks and strips pay, by `speed/device_matrices.py`."""

from benchmarks.gpu.session import Session
from benchmarks.speed.device_matrices import measure


def run(session: Session) -> None:
    """Run all its measurements."""
    record = session.check("limits of matrices", lambda: measure(session.device, small=session.stub))
    session.result("limits of matrices", record)
