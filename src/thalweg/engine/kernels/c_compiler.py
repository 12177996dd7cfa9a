"""C compiler: from C source to a shared library, kept between processes.

Libraries lie in `$XDG_CACHE_HOME/thalweg/kernels` (`~/.cache` by default), named by a hash of their source, the
flags and the processor. Which compiler made them does not matter: arithmetic is as written, and each is tried before
it is used. Each ends in a digest of its own bytes, which loaders ignore: one that a full disk or a crash has cut short
would kill the process that loads it. The folder can be deleted at any time.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

# Arithmetic as written: no fused multiply-add, no reordering; only what never changes a result is given up.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv", "-fPIC")
_PARALLEL = "-fopenmp"
_SINGLE = "-fopenmp-simd"
_DIGEST_BYTES = 32


class CompilerError(Exception):
    """There is no C compiler, or it refused."""


def library(source: str, *, parallel: bool) -> Path | None:
    """The library of this source if it has been built before, and is whole."""
    path = _folder() / f"{_digest(source, parallel=parallel)}.so"
    return path if is_whole(path) else None


def is_whole(path: Path) -> bool:
    """Whether a file has the bytes that `build` has written."""
    try:
        kept = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(kept[:-_DIGEST_BYTES]).digest() == kept[-_DIGEST_BYTES:]


def build(source: str, *, parallel: bool) -> Path:
    """Compile a source to a library; raises CompilerError."""
    command = compiler()
    if command is None:
        raise CompilerError("no C compiler was found: none of cc, gcc, clang, and CC is not set")
    # Into a folder of its own, then moved in one piece: another process sees all of the library, or nothing.
    with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
        written, compiled, linked = (Path(scratch) / name for name in ("step.c", "step.o", "step.so"))
        written.write_text(source)
        mode = _PARALLEL if parallel else _SINGLE
        _run([*command, *_FLAGS, mode, "-c", str(written), "-o", str(compiled)])
        # Linked without an OpenMP of its own: the symbols are those of the one that PyTorch has loaded, and so are
        # its threads.
        undefined = ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else []
        _run([*command, "-shared", *undefined, str(compiled), "-o", str(linked)])
        with open(linked, "r+b") as file:
            file.write(hashlib.sha256(file.read()).digest())
            file.flush()
            os.fsync(file.fileno())  # or its new name may reach the disk before its bytes do
        path = _folder() / f"{_digest(source, parallel=parallel)}.so"
        os.replace(linked, path)
    return path


def compiler() -> list[str] | None:
    """The command of a C compiler; None if there is none."""
    if named := os.environ.get("CC"):
        command = shlex.split(named)
        return command if command and shutil.which(command[0]) else None
    return next(([found] for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
    if ended.returncode != 0:
        said = ended.stderr.strip()[-500:] or "it said nothing"
        raise CompilerError(f"the compiler ended with {ended.returncode}: {said} ({shlex.join(command)})")


def _digest(source: str, *, parallel: bool) -> str:
    told = "\n".join([source, *_FLAGS, str(parallel), _processor()])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


@cache
def _processor() -> str:
    """What `-march=native` depends on; a home folder may be shared by machines."""
    try:
        with open("/proc/cpuinfo") as told:
            return platform.machine() + next(line for line in told if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.system()} {platform.machine()} {platform.processor()}"


def _folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thalweg" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):
        return Path(_temporary().name)
    return folder if os.access(folder, os.W_OK) else Path(_temporary().name)


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """Where a home folder cannot be written, kernels last as long as the process."""
    return tempfile.TemporaryDirectory(prefix="thalweg-kernels-")
