"""The CUDA text of kernels, compiled for GPUs of AMD by a clang that can. It has never run on one."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch

from cases import rules as rule_cases
from thalweg.engine.core.precision import Rounding
from thalweg.engine.core.program import Program
from thalweg.engine.kernels.cuda.source import cuda_source
from thalweg.engine.kernels.passes import Passes
from thalweg.engine.kernels.recording import record

FLAGS = "-x hip --cuda-device-only -nogpuinc -nogpulib -std=c++17 -O2 -ffp-contract=off -w"
# What hipRTC includes before every text.
BUILTINS = """
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
struct Index { unsigned x; };
#define blockIdx (Index{__builtin_amdgcn_workgroup_id_x()})
#define threadIdx (Index{__builtin_amdgcn_workitem_id_x()})
#define __syncthreads() __builtin_amdgcn_s_barrier()
#define __int_as_float(x) __builtin_bit_cast(float, (int)(x))
#define __float_as_int(x) __builtin_bit_cast(int, (float)(x))
#define sqrtf __builtin_sqrtf
#define sqrt __builtin_sqrt
"""


def amd_clang() -> list[str]:
    """Return the command of a clang for AMD's GPUs; empty if there is none."""
    if command := os.environ.get("AMD_CLANG"):
        return shlex.split(command)
    return [sys.executable, "-m", "ziglang", "clang"] if importlib.util.find_spec("ziglang") else []


@pytest.mark.skipif(not amd_clang(), reason="no clang for AMD's GPUs: AMD_CLANG is not set, ziglang not installed")
@pytest.mark.parametrize("architecture", ["gfx90a", "gfx942", "gfx1100"])
@pytest.mark.parametrize(
    ("name", "dtype", "rounding", "dims"),
    [
        ("AdamW", torch.bfloat16, "stochastic", 1),
        ("SGD", torch.float16, "nearest", 1),
        ("Prodigy", torch.float32, "nearest", 2),
        ("Adafactor", torch.bfloat16, "kahan", 4),
        ("SM3", torch.float32, "nearest", 2),
    ],
)
def test_the_text_compiles_for_amd(
    name: str, dtype: torch.dtype, rounding: Rounding, dims: int, architecture: str
) -> None:
    rule = next(case.rule for case in rule_cases.CASES if case.optimizer.__name__ == name)
    text = BUILTINS + cuda_source(Passes(record(Program(rule, rounding=rounding), dtype, dims)))
    command = [*amd_clang(), *FLAGS.split(), f"--offload-arch={architecture}", "-S", "-", "-o", "-"]
    results = []
    for more in ([], ["-emit-llvm"]):
        done = subprocess.run([*command, *more], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]
        results.append(done.stdout)
    assembly, code = results
    assert re.findall(r"^block\d:", assembly, re.MULTILINE)
    assert set(re.findall(r"\.private_segment_fixed_size: (\d+)", assembly)) == {"0"}  # no registers in memory
    assert not re.findall(r"llvm\.fma|fmuladd|\bcontract\b|\bafn\b|\barcp\b|\breassoc\b", code)
