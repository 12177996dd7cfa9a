"""Emulated CUDA: the text of kernels for a GPU, compiled by g++ and run on the CPU, thread after thread."""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

COMPILER = "g++"
# Arithmetic as written: no fused multiply-add.
FLAGS = ("-std=c++17", "-O0", "-fwrapv", "-ffp-contract=off", "-fno-math-errno", "-w", "-fPIC", "-shared", "-DEMULATED")


class EmulatedModule:
    """A text compiled for the CPU.

    Args:
        text: The CUDA text.
        flags: Flags of the compiler.
    """

    def __init__(self, text: str, flags: tuple[str, ...] = FLAGS) -> None:
        self._library, self._prefix = _LIBRARIES.get((text, flags)) or (_compile(text, flags), "")

    def launch(self, name: str, call: ctypes.Structure, blocks: int, *, backwards: bool = False) -> None:
        """Run a kernel.

        Args:
            name: The name of the kernel.
            call: Its argument, with addresses of the CPU.
            blocks: The number of blocks.
            backwards: True to run blocks, and the threads of each, in the opposite order. No result may depend on it.

        Raises:
            AssertionError: If two phases of a block follow each other without a synchronization of its threads.
        """
        function = getattr(self._library, self._prefix + name)
        function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
        unsynchronized = function(ctypes.addressof(call), blocks, int(backwards))
        assert not unsynchronized, f"{name}: {unsynchronized} phases follow another one without TOGETHER"


_LIBRARIES: dict[tuple[str, tuple[str, ...]], tuple[ctypes.CDLL, str]] = {}


def compile_together(texts: Iterable[str], flags: tuple[str, ...] = FLAGS) -> None:
    """Compile several texts in one run of the compiler, which takes less time than one run for each.

    Args:
        texts: The CUDA texts, whose modules are made later.
        flags: Flags of the compiler.
    """
    prefixes = {text: f"text{k}_" for k, text in enumerate(dict.fromkeys(texts)) if (text, flags) not in _LIBRARIES}
    parts = [
        f"#undef EXPORTED\n#define EXPORTED(name) {prefix}##name\nnamespace {prefix} {{\n{text}\n}}"
        for text, prefix in prefixes.items()
    ]
    library = _compile("\n".join(parts), flags)
    _LIBRARIES.update({(text, flags): (library, prefix) for text, prefix in prefixes.items()})


@cache
def _compile(text: str, flags: tuple[str, ...]) -> ctypes.CDLL:
    """Return the library of a text; libraries are kept in a folder of temporary files for later runs."""
    folder = Path(tempfile.gettempdir()) / f"thalweg-emulated-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{hashlib.sha256('|'.join([text, *flags]).encode()).hexdigest()[:32]}.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}")
        command = [COMPILER, *flags, "-x", "c++", "-", "-o", str(partial)]
        subprocess.run(command, input=text.encode(), check=True)  # noqa: S603
        partial.replace(library)
    return ctypes.CDLL(str(library))
