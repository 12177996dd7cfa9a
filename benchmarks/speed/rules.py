"""The step time of every rule for each byte that it must move, beside torch's fused AdamW.

`python benchmarks/speed/rules.py` writes `benchmarks/records/rules.json`; eight minutes on two cores. Steps are timed
on the parameters of GPT-2, where memory bandwidth limits them. The bytes of a rule are those of its parameter, gradient
and state, each as often as a pass reads or writes it; fused AdamW reads 16 for each parameter and writes 12. Passes
that only read are also compared with the reading alone, because a machine may write while it reads. Rules of matrices
are in `matrices.py`.
"""

import argparse
import gc
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from thalweg import optim, rules
from thalweg.bench import floors
from thalweg.bench.measure import ratio_of_medians, time_interleaved
from thalweg.bench.records import machine
from thalweg.bench.sets import SETS
from thalweg.registry import RULES

RECORD = Path(__file__).parents[1] / "records" / "rules.json"
ROUNDS = 7
FUSED_READ, FUSED_WRITTEN = 16, 12  # parameter and two moments; and the gradient, which is only read

# Wrappers around AdamW, since they are used so.
WRAPPED = {
    "clip(adamw)": rules.Clip(rules.AdamW()),
    "cautious(adamw)": rules.Cautious(rules.AdamW()),
    "moving_average(adamw)": rules.MovingAverage(rules.AdamW()),
    "lookahead(adamw)": rules.Lookahead(rules.AdamW()),
}


def entrants() -> Iterator[tuple[str, rules.Rule]]:
    """Yield the rules to measure, by name: those that need one gradient a step and no matrices, and some wrappers."""
    for name, kind in RULES.items():
        rule = kind()
        if not rule.traits.needs_whole_matrices and rule.traits.needs == "gradient":
            yield name, rule
    yield from WRAPPED.items()


def parameters() -> list[torch.nn.Parameter]:
    """Return the parameters of GPT-2 with their gradients."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in SETS["gpt2"]()]
    for param in params:
        param.grad = 0.01 * torch.randn_like(param)
    return params


def bytes_of_a_number(rule: rules.Rule) -> tuple[float, float] | None:
    """Return the mean number of bytes that a step must read, and write, for each number of the parameters."""
    shapes = SETS["gpt2"]()
    moved = floors.moved_bytes(rule, shapes)
    total = sum(torch.Size(shape).numel() for shape in shapes)
    return moved and (moved[0] / total, moved[1] / total)


def measure(name: str, rule: rules.Rule) -> dict[str, Any]:
    """Time the steps of a rule and of fused AdamW in turn, and return the row of the record."""
    gc.collect()  # the memory of the previous optimizers is needed
    optimizer = optim.optimizer_for(rule)(parameters())
    plan = optimizer.prepare()
    backends = {planned.choice.backend for planned in plan.parameters}
    moved = bytes_of_a_number(rule) if backends == {"compiled"} else None
    fused = torch.optim.AdamW(parameters(), fused=True)
    steps = {"ours": optimizer.step, "fused": fused.step}
    time_interleaved(steps, 2)
    times = time_interleaved(steps, ROUNDS if moved else 2)
    of_fused, *spread = ratio_of_medians(times["ours"], times["fused"])
    return {
        "rule": name,
        "scope": rule.traits.scope,
        "ways": sorted(backends),
        "read": moved and moved[0],
        "written": moved and moved[1],
        "ms": 1e3 * statistics.median(times["ours"]),
        "fused_ms": 1e3 * statistics.median(times["fused"]),
        "of_fused": of_fused,
        "spread": spread,
        "a_byte": moved and of_fused * (FUSED_READ + FUSED_WRITTEN) / sum(moved),
        "a_byte_read": moved and of_fused * FUSED_READ / moved[0],
    }


def main() -> None:
    """Measure and write the record."""
    rows = []
    for name, rule in entrants():
        rows.append(measure(name, rule))
        print(rows[-1], flush=True)
    RECORD.write_text(json.dumps({"machine": machine(), "rounds": ROUNDS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
