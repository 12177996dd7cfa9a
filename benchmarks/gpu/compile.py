"""Compile the CUDA text of every rule and wrapper by NVRTC, without a GPU, and record what the kernels use.

    python benchmarks/gpu/compile.py            float32 on every architecture: ten minutes
    python benchmarks/gpu/compile.py AdamW      the cases whose names contain this text, in all precisions; no record

A kernel that keeps registers in memory, or a text that contains fused or approximate arithmetic, is an error.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

from cases import nvrtc
from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from thalweg.engine.core.precision import Rounding
from thalweg.engine.core.program import Program
from thalweg.engine.kernels.cuda.source import NVRTC_OPTIONS, cuda_source
from thalweg.engine.kernels.passes import Passes
from thalweg.engine.kernels.recording import UnknownOperationError, record

RECORD = Path(__file__).parents[1] / "records" / "gpu_compile.json"
# Each precision, and the architectures that it is compiled for.
TARGETS: list[tuple[torch.dtype, Rounding, tuple[str, ...]]] = [
    (torch.float32, "nearest", nvrtc.ARCHITECTURES),
    (torch.bfloat16, "stochastic", ("sm_90",)),
    (torch.bfloat16, "kahan", ("sm_90",)),
    (torch.float16, "nearest", ("sm_90",)),
]
FORBIDDEN = r"fma\.rn|approx|div\.full|\.ftz|(?:ld|st)\.local"


def compile_case(case: Any, *, all_precisions: bool) -> dict[str, list[dict[str, Any]]]:
    """Return the kernels of a case by architecture and precision.

    Raises:
        UnknownOperationError: If the case has no text.
    """
    elementwise = case.rule.traits.scope == "elementwise"
    kernels: dict[str, list[dict[str, Any]]] = {}
    for dims in (1,) if elementwise else (2,) if case.rule.name == "SM3" else (2, 4):
        for dtype, rounding, architectures in TARGETS if all_precisions else TARGETS[:1]:
            passes = Passes(record(Program(case.rule, rounding=rounding), dtype, dims))
            if dims == 4 and passes.axes != "bnm":
                continue  # the text for matrices
            text = cuda_source(passes)
            for architecture in architectures:
                ptx, _, log = nvrtc.compile_text(text, architecture, (*NVRTC_OPTIONS, "--ptxas-options=-v"))
                forbidden = re.findall(FORBIDDEN, ptx)
                assert not forbidden, f"{case}: {forbidden[:3]}"
                target = kernels.setdefault(f"{architecture}, {str(dtype)[6:]}, {rounding}", [])
                for use in nvrtc.kernel_uses(log):
                    assert use.spilled_bytes == use.stack_bytes == 0, f"{case}: {use}"
                    target.append({"dims": dims, **use._asdict()})
    return kernels


def main(names: list[str]) -> None:
    texts: dict[str, Any] = {}
    without: dict[str, str] = {}
    for case in (*rule_cases.CASES, *wrapper_cases.CASES):
        if case.rule.traits.needs_whole_matrices or not all(part in str(case) for part in names):
            continue
        try:
            kernels = texts[str(case)] = compile_case(case, all_precisions=bool(names))
        except UnknownOperationError as error:
            without[str(case)] = str(error)
            continue
        registers = [use["registers"] for uses in kernels.values() for use in uses]
        print(f"{str(case)[:60]:60} {len(registers):3} kernels, at most {max(registers)} registers", flush=True)
        if not names:
            write(texts, without)


def write(texts: dict[str, Any], without: dict[str, str]) -> None:
    """Write the record, a kernel a line."""
    content = {"options": NVRTC_OPTIONS, "texts": texts, "without text": without}
    RECORD.write_text(json.dumps(content, separators=(",", ":")).replace('},{"dims', '},\n{"dims') + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="texts in the names of cases")
    main(parser.parse_args().names)
