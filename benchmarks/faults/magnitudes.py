"""Every rule and wrapper over gradients of any size, in four dtypes, beside the same rule in float64.

Sizes that stay, rise, fall, alternate and spike; gradients of one element, with zero rows and of rank 1; zeros for
2,000 steps and back. A run survives if parameters and state stay finite and no step is more than twice as long as in
float64. It is near if it also ends within 5 percent of the change in float64. The script prints what did not survive
and writes the record. ``--only NAME`` tries the rules with this in their names and writes nothing.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from cases.magnitudes import SCALES, Deviation, Structure, all_rules, deviations
from thalweg import rules
from thalweg.bench.records import machine

RECORD = Path(__file__).parents[1] / "records" / "faults_magnitudes.json"

_LONGEST_STEP = 2.0
_NEAR = 0.05
# The last is large enough that the sum of its squares is too large for float32.
_SHAPES = ((4, 4), (5,), (24, 20))
# Vanishing gradients take thousands of steps. They are tried with one matrix.
_ONE_MATRIX = ((4, 4),)


class Trial(NamedTuple):
    """Gradients of a dtype, of these sizes at successive steps."""

    label: str
    dtype: torch.dtype
    scales: Sequence[float]
    structure: Structure = "dense"
    shapes: Sequence[tuple[int, ...]] = _SHAPES


def trials() -> Iterator[Trial]:
    """Yield everything that is tried with each rule."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        representable = [scale for scale in SCALES if dtype != torch.float16 or 1e-7 < scale < 1e4]
        for scale in representable:
            yield Trial("constant", dtype, [scale] * 6)
        yield Trial("rising", dtype, representable)
        yield Trial("falling", dtype, representable[::-1])
        yield Trial("alternating", dtype, [representable[-1], representable[0]] * 6)
        yield Trial("spike", dtype, [1.0] * 6 + [representable[-1]] + [1.0] * 6)
        if dtype == torch.float32:  # the state of half precisions is in float32 too
            yield Trial("vanishing", dtype, [1.0] * 6 + [0.0] * 2000 + [1.0] * 6, shapes=_ONE_MATRIX)
    for structure in ("one element", "every other row", "rank 1"):
        for scale in (1e-30, 1.0, 1e18):
            yield Trial(structure, torch.float32, [scale] * 8, structure)


def verdict(compared: Sequence[Deviation]) -> str:
    """Return the worst that happened to a parameter: "near", "survived", "long step" or "not finite"."""
    if not all(deviation.is_finite for deviation in compared):
        return "not finite"
    if max(deviation.step for deviation in compared) > _LONGEST_STEP:
        return "long step"
    return "near" if max(deviation.change for deviation in compared) < _NEAR else "survived"


def main() -> None:
    """Try everything and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="try the rules with this in their names, and write nothing")
    only = parser.parse_args().only
    counts: Counter[str] = Counter()
    notable: list[list[str]] = []
    for rule in all_rules():
        if only in rule.name:
            for trial in trials():
                result = verdict(_tried(rule, trial))
                counts[result] += 1
                if result in ("not finite", "long step"):
                    case = [rule.name, trial.label, str(trial.dtype), f"{trial.scales[0]:g}", result]
                    notable.append(case)
                    print(*case, flush=True)
    print(dict(counts))
    if not only:
        record = {"tried": counts.total(), "results": dict(counts), "not survived": notable, "machine": machine()}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


def _tried(rule: rules.Rule, trial: Trial) -> list[Deviation]:
    return deviations(rule, trial.scales, trial.dtype, shapes=trial.shapes, structure=trial.structure)


if __name__ == "__main__":
    main()
