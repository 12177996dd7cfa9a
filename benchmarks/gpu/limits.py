"""The limits of the rules of matrices: from which size stacks and strips pay, by `benchmarks/device_matrices.py`."""

from benchmarks.device_matrices import measure
from benchmarks.gpu.session import Session


def run(session: Session) -> None:
    """Run all its measurements."""
    record = session.check("limits of matrices", lambda: measure(session.device, small=session.stub))
    session.result("limits of matrices", record)
