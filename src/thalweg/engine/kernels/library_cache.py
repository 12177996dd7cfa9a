"""Library cache: compiled libraries that are kept between processes, and how a library is loaded.

Libraries lie in `$XDG_CACHE_HOME/thalweg/kernels` (`~/.cache` by default), which can be deleted at any time. A library
runs with all rights of the user. So the folders `thalweg` and `kernels`, and each file in them, must belong to the user
and must be writable by nobody else. Otherwise nothing is read or kept, which is logged once.

What is loaded is what was checked: folders and files are opened once, and the bytes that were read are loaded from a
copy in memory, which nobody can replace or truncate. Each file ends in a digest of the bytes before it: a full disk or
a crash may have left a part of a file.
"""

import ctypes
import hashlib
import itertools
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

_FOLDERS = ("thalweg", "kernels")  # in the cache folder of the user
_DIGEST_BYTES = 32
_MAX_BYTES = 1 << 26  # a library has some 50 KB
_NUM_LOADED = itertools.count(1)

# --- files ------------------------------------------------------------------------------------------------------------


def read(name: str) -> bytes | None:
    """Return a library that an earlier process has kept; None if there is none, or none that is whole and private.

    Args:
        name: The name of its file.
    """
    try:
        with _opened_folder(create=False) as folder:
            content = read_private_file(name, folder)
    except OSError:
        return None
    library, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return library if hashlib.sha256(library).digest() == digest else None


def keep(name: str, library: bytes) -> None:
    """Keep a library for later processes, if possible.

    Args:
        name: The name of its file.
        library: Its bytes.
    """
    try:
        with _opened_folder(create=True) as folder:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            # A process that reads the file before it is whole sees a wrong digest, and compiles its own.
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
            with open(descriptor, "wb") as file:
                file.write(library + hashlib.sha256(library).digest())
    except FileExistsError:
        pass  # another process keeps the same library at this moment
    except OSError as error:
        _log_once(str(error))


@cache
def _log_once(reason: str) -> None:
    logging.getLogger("thalweg").warning(
        "compiled kernels are not kept, so each process compiles its own: %s. "
        "Set XDG_CACHE_HOME to a folder of your own to keep them.",
        reason,
    )


def read_private_file(name: str, folder: int) -> bytes:
    """Return the content of a file that belongs to the user and is writable by nobody else.

    Args:
        name: The name of the file.
        folder: The descriptor of its folder.

    Raises:
        OSError: If there is no such file, or if it is too large for a library.
    """
    # Without waiting for a writer: the name may be that of a pipe.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        check_private(name, descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{name} is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_BYTES:
        raise OSError(f"{name} is larger than {_MAX_BYTES} bytes")
    return content


# --- folders ----------------------------------------------------------------------------------------------------------


@contextmanager
def _opened_folder(*, create: bool) -> Iterator[int]:
    """Yield a descriptor of the folder of the cache.

    Args:
        create: If true, missing folders are created.

    Raises:
        OSError: If the folder cannot be opened, or is not private.
    """
    with ExitStack() as stack:

        def opened(path: str | Path, parent: int | None = None) -> int:
            flags = os.O_RDONLY | os.O_DIRECTORY | (0 if parent is None else os.O_NOFOLLOW)
            descriptor = os.open(path, flags, dir_fd=parent)
            stack.callback(os.close, descriptor)
            return descriptor

        path = _cache_home()
        if create and not path.exists():
            # In a folder of the user alone: root must leave nothing in the home of somebody else.
            parent = next(folder for folder in path.parents if folder.exists())
            if parent.stat().st_uid != os.geteuid():
                raise PermissionError(f"{parent} belongs to another user")
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = opened(path)
        # Folders like /tmp belong to root. The owner of any other folder could replace what it contains.
        if os.fstat(folder).st_uid not in (0, os.geteuid()):
            raise PermissionError(f"{path} belongs to another user")
        for name in _FOLDERS:
            path /= name
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=folder)
            folder = opened(name, folder)
            check_private(path, folder)
        yield folder


def _cache_home() -> Path:
    """Return the folder for caches by the XDG standard, which ignores a relative path."""
    if os.name != "posix":
        raise OSError("files have no owner and mode on this system")
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):
        return Path(configured)
    home = os.environ.get("HOME", os.path.expanduser("~"))  # "~" remains if the user has no entry in passwd
    if not os.path.isabs(home) or not os.path.isdir(home):
        raise FileNotFoundError(f"there is no home folder {home!r}")
    return Path(home, ".cache")


def check_private(path: str | Path, descriptor: int) -> None:
    """Raise PermissionError unless a file or folder belongs to the user and is writable by nobody else."""
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} is writable by other users (mode {stat.S_IMODE(status.st_mode):o})")


# --- loading ----------------------------------------------------------------------------------------------------------


def load(library: bytes) -> ctypes.CDLL:
    """Load a library from a copy of its own.

    Args:
        library: The bytes of the library.

    Raises:
        OSError: If they cannot be loaded.
    """
    if hasattr(os, "memfd_create"):
        with suppress(OSError), open(os.memfd_create("thalweg-kernel"), "wb") as file:
            file.write(library)
            file.flush()
            # The loader takes equal paths for one library, and descriptors are used again: paths differ in slashes.
            return ctypes.CDLL(f"/proc/self/fd{'/' * next(_NUM_LOADED)}{file.fileno()}")
    with tempfile.TemporaryDirectory(prefix="thalweg-") as folder:
        path = Path(folder) / "kernel.so"
        path.write_bytes(library)
        return ctypes.CDLL(str(path))
