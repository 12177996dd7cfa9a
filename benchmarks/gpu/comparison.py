"""A comparison on `digits` and on `characters`, by the CPU and by the device: both give a verdict, at which speed."""

import math
import time
from functools import partial
from typing import Any

from benchmarks.gpu.session import Session

TASKS = ("digits", "characters")
CONTENDERS = ["momentum", "adamw"]


def run(session: Session) -> None:
    """Compare on each task, on the CPU first."""
    for task in ("quadratic",) if session.stub else TASKS:
        results = {}
        for place in ("cpu", str(session.device)):
            name = f"{task} on {place}" + (", by the stub" if session.stub and place in results else "")
            results[place] = session.check(name, partial(_compare, session, task, place))
            session.result(name, results[place])
        on_cpu, on_device = results.get("cpu"), results.get(str(session.device))
        if on_cpu and on_device and not session.stub:
            session.target(
                f"{task}: trainings a second ÷ the CPU's",
                on_device["trainings_a_second"] / on_cpu["trainings_a_second"],
                at_least=1.0,
            )
            session.check(f"{task}: the device finds as good a setting", partial(_assert_similar, on_device, on_cpu))


def _compare(session: Session, task: str, device: str) -> dict[str, Any]:
    import thalweg  # a placeholder may stand for a package that no training calls

    start = time.monotonic()
    comparison = thalweg.compare(task, CONTENDERS, budget="4trials" if session.stub else "15s", device=device)
    seconds = time.monotonic() - start
    trainings = sum(len(trials) for summary in comparison.contenders for trials in summary.trials.values())
    values = {summary.name: summary.value.mean for summary in comparison.contenders}
    return {
        "seconds": seconds,
        "trainings": trainings,
        "trainings_a_second": trainings / seconds,
        "verdict": comparison.verdict.text,
        "values": values,
    }


def _assert_similar(on_device: dict[str, Any], on_cpu: dict[str, Any]) -> None:
    """Fail unless the best value is about that of the CPU. The numbers of trials differ."""
    best, expected = (min(result["values"].values()) for result in (on_device, on_cpu))
    assert math.isfinite(best), f"the best value is {best}"
    assert best <= 1.5 * expected, f"the best value is {best:.4g}, on the CPU {expected:.4g}"
