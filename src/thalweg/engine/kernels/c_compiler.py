"""C compiler: compile C source to a shared library, which is kept between processes.

Libraries lie in `$XDG_CACHE_HOME/thalweg/kernels` (`~/.cache` by default). Their names are hashes of the source, the
flags and the processor. The name does not depend on the compiler: arithmetic is as written, and every kernel is tried
before it is used. Each file ends in a digest of its own bytes, which loaders ignore: a file that a full disk or a crash
has truncated would kill the process that loads it. The folder can be deleted at any time.
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

# Arithmetic as written: no fused multiply-add, no reordering. The other flags change no result.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv", "-fPIC")
_PARALLEL = "-fopenmp"
_SINGLE = "-fopenmp-simd"
_DIGEST_BYTES = 32


class CompilerError(Exception):
    """There is no C compiler, or it failed."""


def library(source: str, *, parallel: bool) -> Path | None:
    """Return the library of a source if it has been compiled before and is whole, else None.

    Args:
        source: The C text.
        parallel: True for a library with OpenMP.
    """
    path = _library_path(source, parallel=parallel)
    return path if is_whole(path) else None


def is_whole(path: Path) -> bool:
    """Return True if a file has the bytes that ``build`` wrote."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]


def build(source: str, *, parallel: bool) -> Path:
    """Compile a source to a library.

    Args:
        source: The C text.
        parallel: True for a library with OpenMP.

    Returns:
        The path of the library.

    Raises:
        CompilerError: If there is no compiler, or it fails.
    """
    command = compiler()
    if command is None:
        raise CompilerError("no C compiler was found: none of cc, gcc, clang, and CC is not set")
    # In a folder of its own, then renamed: another process sees all of the library, or nothing.
    with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
        source_file, object_file, linked = (Path(scratch) / name for name in ("step.c", "step.o", "step.so"))
        source_file.write_text(source)
        mode = _PARALLEL if parallel else _SINGLE
        _run([*command, *_FLAGS, mode, "-c", str(source_file), "-o", str(object_file)])
        # Linked without OpenMP: the symbols are resolved to the OpenMP that PyTorch has loaded, with its threads.
        undefined = ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else []
        _run([*command, "-shared", *undefined, str(object_file), "-o", str(linked)])
        with open(linked, "r+b") as file:
            file.write(hashlib.sha256(file.read()).digest())
            file.flush()
            os.fsync(file.fileno())  # or the disk may hold its new name before its bytes
        path = _library_path(source, parallel=parallel)
        os.replace(linked, path)
    return path


def compiler() -> list[str] | None:
    """Return the command of a C compiler: that in the environment variable CC, or cc, gcc or clang; None if missing."""
    if variable := os.environ.get("CC"):
        command = shlex.split(variable)
        return command if command and shutil.which(command[0]) else None
    return next(([path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
    if done.returncode != 0:
        message = done.stderr.strip()[-500:] or "no message"
        raise CompilerError(f"the compiler ended with status {done.returncode}: {message} ({shlex.join(command)})")


def _library_path(source: str, *, parallel: bool) -> Path:
    return _folder() / f"{_digest(source, parallel=parallel)}.so"


def _digest(source: str, *, parallel: bool) -> str:
    text = "\n".join([source, *_FLAGS, str(parallel), _processor()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _processor() -> str:
    """Return the processor features that ``-march=native`` reads; machines may share a home folder."""
    try:
        with open("/proc/cpuinfo") as lines:
            return platform.machine() + next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.system()} {platform.machine()} {platform.processor()}"


def _folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thalweg" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):
        return Path(_temporary_folder().name)
    return folder if os.access(folder, os.W_OK) else Path(_temporary_folder().name)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that lasts as long as the process, for machines whose home folder cannot be written."""
    return tempfile.TemporaryDirectory(prefix="thalweg-kernels-")
