"""NVRTC from pip: CUDA text compiled without a GPU, and what the compiler says of each kernel."""

import ctypes
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


class KernelUse(NamedTuple):
    """The resources of a multiprocessor that a compiled kernel uses.

    Attributes:
        name: The name of the kernel.
        registers: Registers of a thread.
        spilled_bytes: Bytes of registers that a thread keeps in memory.
        stack_bytes: Bytes of local memory of a thread.
        shared_bytes: Bytes of shared memory of a block.
    """

    name: str
    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int


@cache
def library() -> ctypes.CDLL | None:
    """Return NVRTC; None if the package ``nvidia-cuda-nvrtc`` is missing."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    for folder in sorted(folder for root in roots for folder in root.glob("*/lib")):
        builtins = sorted(folder.glob("libnvrtc-builtins.so.*"))
        compilers = sorted(folder.glob("libnvrtc.so.*"))
        if builtins and compilers:
            ctypes.CDLL(str(builtins[0]), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(compilers[0]))
    return None


def compile_text(text: str, architecture: str, options: tuple[str, ...]) -> tuple[str, bytes, str]:
    """Compile a text.

    Args:
        text: The CUDA text.
        architecture: ``sm_90`` for a cubin, ``compute_90`` for PTX.
        options: Other options.

    Returns:
        The PTX, the cubin, which is empty for ``compute_90``, and the log.

    Raises:
        ValueError: If the compiler refuses the text.
    """
    nvrtc = library()
    assert nvrtc is not None
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"step.cu", 0, None, None) == 0
    try:
        flags = [option.encode() for option in (f"--gpu-architecture={architecture}", *options)]
        code = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        log = _read(nvrtc, program, "ProgramLog").decode(errors="replace")
        if code:
            raise ValueError(log)
        ptx = _read(nvrtc, program, "PTX").decode(errors="replace")
        return ptx, b"" if architecture.startswith("compute") else _read(nvrtc, program, "CUBIN"), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, kind: str) -> bytes:
    size = ctypes.c_size_t()
    assert getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)) == 0
    content = ctypes.create_string_buffer(size.value)
    assert getattr(nvrtc, f"nvrtcGet{kind}")(program, content) == 0
    return content.raw


def kernel_uses(log: str) -> list[KernelUse]:
    """Return what each kernel uses, from the log of a compilation with ``--ptxas-options=-v``."""
    uses = []
    for part in log.split("Compiling entry function '")[1:]:
        numbers = {
            name: sum(map(int, re.findall(pattern, part)))
            for name, pattern in (
                ("registers", r"Used (\d+) registers"),
                ("spilled_bytes", r"(\d+) bytes spill"),
                ("stack_bytes", r"(\d+) bytes stack frame"),
                ("shared_bytes", r"(\d+) bytes smem"),
            )
        }
        uses.append(KernelUse(part.split("'")[0], **numbers))
    return uses
