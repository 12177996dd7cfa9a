"""C compiler: compile C source to a shared library.

The name of a library is a hash of the source, the flags and the processor. It does not depend on the compiler:
arithmetic is as written, and every kernel is tried before it is used. A compiler works in a private folder, which is
deleted afterwards; a later process deletes the folders of processes that were killed. A compiler is killed if it takes
too long, or if the script ends.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import Lock, main_thread
from time import monotonic

from thalweg.engine.kernels import library_cache
from thalweg.engine.kernels.kernel_spec import UnavailableError

# Arithmetic as written: no fused multiply-add, no reordering. The other flags change no result.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv", "-fPIC")
_PARALLEL = "-fopenmp"
_SINGLE = "-fopenmp-simd"
TIME_LIMIT_S = 60.0  # of a kernel, which takes some seconds on a busy machine
_POLL_S = 0.05
_FOLDER_PREFIX = "thalweg-compiler-"
_MAX_MESSAGE_BYTES = 500


class CompilerError(UnavailableError):
    """There is no C compiler, or it failed."""


def build(source: str, deadline: float, *, parallel: bool) -> bytes:
    """Compile a source to a library.

    Args:
        source: The C text.
        deadline: The time of ``time.monotonic()`` at which the compiler is killed.
        parallel: True for a library with OpenMP.

    Returns:
        The bytes of the library.

    Raises:
        CompilerError: If there is no compiler, or it fails.
    """
    command = compiler()
    if command is None:
        raise CompilerError("no C compiler was found: none of cc, gcc, clang, and CC is not set")
    try:
        with _working_folder() as (path, folder):
            with _created_file("step.c", folder) as file:
                os.write(file, source.encode())
            mode = _PARALLEL if parallel else _SINGLE
            _run([*command, *_FLAGS, mode, "-c", "step.c", "-o", "step.o"], path, folder, deadline)
            # Linked without OpenMP: the symbols are resolved to the OpenMP that PyTorch has loaded, with its threads.
            undefined = ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else []
            _run([*command, "-shared", *undefined, "step.o", "-o", "step.so"], path, folder, deadline)
            return library_cache.read_private_file("step.so", folder)
    except OSError as error:
        raise CompilerError(f"the compiler cannot be used: {error}") from error


def compiler() -> list[str] | None:
    """Return the command of a C compiler: that in the environment variable CC, or cc, gcc or clang; None if missing."""
    if os.name != "posix":
        return None  # the libraries of other systems have no symbols that are resolved when they are loaded
    variable = os.environ.get("CC")
    try:
        command = shlex.split(variable) if variable else []
    except ValueError:  # a quotation mark is missing
        return None
    names = command[:1] if variable else ["cc", "gcc", "clang"]
    path = next((path for name in names if (path := shutil.which(name))), None)
    return [os.path.abspath(path), *command[1:]] if path else None


def library_name(source: str, *, parallel: bool) -> str:
    """Return the name of the file of a library.

    Args:
        source: The C text.
        parallel: True for a library with OpenMP.
    """
    text = "\n".join([source, *_FLAGS, str(parallel), _processor()])
    return hashlib.sha256(text.encode()).hexdigest()[:32] + ".so"


@cache
def _processor() -> str:
    """Return the processor features that ``-march=native`` reads; machines may share a home folder."""
    try:
        with open("/proc/cpuinfo") as lines:
            return platform.machine() + next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.system()} {platform.machine()} {platform.processor()}"


# --- the process of the compiler --------------------------------------------------------------------------------------

# A fork while a process is started would copy the pipe on which the starting thread waits until all copies are closed.
_START_LOCK = Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_START_LOCK.acquire, after_in_parent=_START_LOCK.release, after_in_child=_START_LOCK.release
    )


def _run(command: list[str], path: str, folder: int, deadline: float) -> None:
    """Run a command in a folder, with a time limit."""
    _check_time(deadline)
    with _created_file("messages", folder) as messages:
        with _START_LOCK:
            process = subprocess.Popen(  # noqa: S603
                command,
                cwd=path,
                env=os.environ | {"TMPDIR": "."},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,  # no pipe: a process that the compiler leaves behind could hold it open
                start_new_session=True,
                umask=0o077,
            )
        try:
            _wait(process, deadline)
        finally:
            if process.poll() is None:
                _kill(process)
        if process.returncode != 0:
            size = os.fstat(messages).st_size
            text = os.pread(messages, _MAX_MESSAGE_BYTES, max(0, size - _MAX_MESSAGE_BYTES)).decode(errors="replace")
            raise CompilerError(
                f"the compiler ended with status {process.returncode}: {text.strip() or 'no message'} "
                f"({shlex.join(command)})"
            )
    os.unlink("messages", dir_fd=folder)


def _wait(process: "subprocess.Popen[bytes]", deadline: float) -> None:
    while True:
        try:
            process.wait(_POLL_S)
            return
        except subprocess.TimeoutExpired:
            _check_time(deadline)


def _check_time(deadline: float) -> None:
    """Raise CompilerError if the compiler must work no longer."""
    if monotonic() > deadline:
        raise CompilerError(f"the compiler took longer than {TIME_LIMIT_S:.0f} s")
    if not main_thread().is_alive():
        raise CompilerError("the script has ended")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a compiler and the processes that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    with suppress(subprocess.TimeoutExpired):  # it may be stuck in the kernel
        process.wait(5)


# --- its folder -------------------------------------------------------------------------------------------------------


@contextmanager
def _working_folder() -> Iterator[tuple[str, int]]:
    """Yield the path and the descriptor of a private folder, which is deleted afterwards."""
    _delete_leftovers()
    path, folder = _create_folder()
    try:
        by_descriptor = f"/proc/self/fd/{folder}"  # leads to this folder even if others replace the path
        yield by_descriptor if os.path.isdir(by_descriptor) else path, folder
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(folder)


def _create_folder() -> tuple[str, int]:
    """Create a private folder, and lock it while its process lives."""
    while True:
        path = tempfile.mkdtemp(prefix=_FOLDER_PREFIX)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        library_cache.check_private(path, folder)
        _lock(folder)
        if os.path.isdir(path):
            return path, folder
        os.close(folder)  # another process took it for a leftover before it was locked


def _delete_leftovers() -> None:
    """Delete the folders of processes that were killed."""
    with os.scandir(tempfile.gettempdir()) as entries:
        paths = [entry.path for entry in entries if entry.name.startswith(_FOLDER_PREFIX)]
    for path in paths:
        with suppress(OSError):
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                library_cache.check_private(path, folder)
                if _lock(folder, wait=False):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(folder)


def _lock(folder: int, *, wait: bool = True) -> bool:
    """Lock a folder; return True if it is locked. The lock ends with this process."""
    import fcntl  # is missing on systems that are not POSIX

    try:
        fcntl.flock(folder, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # in use, or on a file system that locks no folders
        return False
    return True


@contextmanager
def _created_file(name: str, folder: int) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
