"""The CUDA text of kernels, compiled by NVRTC without a GPU: no fused or approximate arithmetic, and no spills."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cases import nvrtc
from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from thalweg.engine.core.precision import Rounding
from thalweg.engine.core.program import Program
from thalweg.engine.kernels.cuda.grid import Tuning
from thalweg.engine.kernels.cuda.source import NVRTC_OPTIONS, cuda_source
from thalweg.engine.kernels.passes import Passes
from thalweg.engine.kernels.recording import record

pytestmark = pytest.mark.skipif(nvrtc.library() is None, reason="nvidia-cuda-nvrtc is not installed")
RECORD = Path(__file__).parents[4] / "benchmarks" / "records" / "gpu_compile.json"

# Every kind of operation, type and kernel.
SAMPLE: list[tuple[str, torch.dtype, Rounding, int]] = [
    ("AdamW", torch.float32, "nearest", 1),
    ("AdamW", torch.float64, "nearest", 1),
    ("AdamW", torch.bfloat16, "stochastic", 1),
    ("SGD", torch.float16, "nearest", 1),
    ("LAMB", torch.bfloat16, "kahan", 2),
    ("Prodigy", torch.float32, "nearest", 2),
    ("SM3", torch.float32, "nearest", 2),
    ("Adafactor", torch.float32, "nearest", 4),
]


def text_of(name: str, dtype: torch.dtype, rounding: Rounding, dims: int, **settings: Any) -> str:
    rule = next(case.rule for case in rule_cases.CASES if case.optimizer.__name__ == name)
    return cuda_source(Passes(record(Program(rule, rounding=rounding), dtype, dims)), **settings)


@pytest.mark.parametrize("sample", SAMPLE, ids=lambda sample: f"{sample[0]}-{str(sample[1])[6:]}-{sample[2]}")
def test_arithmetic_is_as_written(sample: tuple[str, torch.dtype, Rounding, int]) -> None:
    ptx = nvrtc.compile_text(text_of(*sample), "compute_80", NVRTC_OPTIONS)[0]
    assert not re.findall(r"\b(?:fma|mad)\.\w*\.?f(?:32|64)|fma\.rn|approx|div\.full|\.ftz", ptx)
    whole_vectors = re.findall(r"ld\.global(?:\.\w+)*\.v[24]\.", ptx)
    assert whole_vectors, "vectors are loaded as such, from memory that is known to be global"
    assert not re.findall(r"\bld\.(?:v\d\.)?[fubs]\d.*", ptx), "a load must not ask what kind of memory an address is"
    assert not re.findall(r"\b(?:ld|st)\.local", ptx), "the argument must not be copied"


def test_fused_operations_would_be_noticed() -> None:
    options = tuple(option for option in NVRTC_OPTIONS if option != "--fmad=false")
    ptx = nvrtc.compile_text(text_of(*SAMPLE[0]), "compute_80", options)[0]
    assert "fma.rn.f32" in ptx


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_no_kernel_keeps_registers_in_memory(architecture: str) -> None:
    for sample in (SAMPLE[0], SAMPLE[4]):
        _, cubin, log = nvrtc.compile_text(text_of(*sample), architecture, (*NVRTC_OPTIONS, "--ptxas-options=-v"))
        uses = nvrtc.kernel_uses(log)
        assert uses
        assert cubin[:4] == b"\x7fELF"
        assert all(0 < use.registers <= 128 and not use.spilled_bytes and not use.stack_bytes for use in uses)


def test_the_largest_call_and_every_tuning_compile() -> None:
    tuning = Tuning(chunk=16384, vectors=1, streaming=True, min_blocks=4)
    ptx = nvrtc.compile_text(text_of(*SAMPLE[2], num_grads=3968, tuning=tuning), "compute_90", NVRTC_OPTIONS)[0]
    assert "ld.global.cs" in ptx
    assert "st.global.cs" in ptx


def test_the_record_covers_every_rule_that_has_a_text() -> None:
    content = json.loads(RECORD.read_text())
    cases = [*rule_cases.CASES, *wrapper_cases.CASES]
    names = {str(case) for case in cases if not case.rule.traits.needs_whole_matrices}
    assert set(content["texts"]) | set(content["without text"]) == names
    kernels = [k for text in content["texts"].values() for uses in text.values() for kernel in uses for k in [kernel]]
    assert all(not kernel["spilled_bytes"] and not kernel["stack_bytes"] for kernel in kernels)
    assert {name for text in content["texts"].values() for name in text} >= {
        f"{architecture}, float32, nearest" for architecture in nvrtc.ARCHITECTURES
    }
