"""Every rule and every wrapper in every precision, on the device against the loop on the CPU, bit by bit.

A kernel must give the bits of the loop. An eager backend on a device may differ by some units of the last place, since
libraries of the device round and sum in their own way; the record lists the units of each.
"""

from functools import partial
from typing import Any

import torch

from benchmarks.gpu.session import Session, SkippedError
from benchmarks.gpu.stepping import PRECISIONS, Difference, Steps, Subject, difference, subjects, take_steps

CPU = torch.device("cpu")
# Of products of matrices and decompositions, which are summed in another order: relative to the largest element.
_MATRIX_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-3, torch.bfloat16: 2**-4, torch.float16: 2**-6}
_MOST_UNITS = 64  # of an eager backend
# With the stub: g++ compiles each kernel, and tests cover the others.
_IN_SHORT = {"float32": ("AdamW", "LAMB", "Adafactor", "Muon", "wrapper Clip"), "bfloat16 stochastic": ("AdamW",)}


def run(session: Session) -> None:
    """Run all checks. Those of float32 come first."""
    for precision, (dtype, options) in PRECISIONS.items():
        for subject in subjects():
            if session.stub and (precision not in _IN_SHORT or not subject.name.startswith(_IN_SHORT[precision])):
                continue
            check = partial(_compare, session, subject, dtype, options)
            compared = session.check(f"{subject.name}, {precision}", check)
            if compared is not None:
                session.result(f"{subject.name}, {precision}", compared)


def _compare(session: Session, subject: Subject, dtype: torch.dtype, options: dict[str, Any]) -> dict[str, Any]:
    try:
        expected = take_steps(subject, CPU, dtype, backend="loop", **options)
    except Exception as error:
        raise SkippedError(f"the loop refuses it: {type(error).__name__}") from error
    chosen = take_steps(subject, session.device, dtype, **options)
    eager = take_steps(subject, session.device, dtype, backend="loop", **options)
    off, off_eager = difference(chosen, expected), difference(eager, expected)
    result = {"backends": chosen.backends, "kernel": _shown(off), "loop on the device": _shown(off_eager)}
    if subject.has_kernel(dtype):
        assert set(chosen.backends) == {"compiled"}, f"it must run as a kernel, and runs as {chosen.backends}"
        assert not off.elements, f"the kernel differs from the CPU in {_words(off)}"
    elif subject.rule.traits.needs_whole_matrices or subject.rule.traits.scope == "matrix":
        _assert_close(chosen, expected)
        _assert_close(eager, expected)
        return result
    else:
        assert off.units <= _MOST_UNITS, f"{chosen.backends} differs from the CPU in {_words(off)}"
    assert off_eager.units <= _MOST_UNITS, f"the loop on the device differs from the CPU in {_words(off_eager)}"
    return result


def _shown(off: Difference) -> str:
    return _words(off) if off.elements else "equal"


def _words(off: Difference) -> str:
    return f"{off.elements} elements, by at most {off.units:.3g} units, in {off.tensor}"


def _assert_close(actual: Steps, expected: Steps) -> None:
    for name, reference in expected.tensors.items():
        if not name.startswith("parameter") or not reference.numel():
            continue
        error = (actual.tensors[name].double() - reference.double()).abs().max()
        bound = _MATRIX_TOLERANCE[reference.dtype] * reference.double().abs().max()
        assert error <= bound, f"{name} is off by {float(error):.3g}, at most {float(bound):.3g} is allowed"
