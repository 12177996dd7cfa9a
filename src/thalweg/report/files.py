"""Files of reports: written whole or not at all, never through a link, and never over a file of someone else."""

import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from thalweg.errors import StoreError

GENERATOR = '<meta name="generator" content="thalweg">'
# The end of the title of all pages, also of those that older versions wrote.
PAGE_SIGNATURES = (GENERATOR.encode(), "· thalweg</title>".encode())
_HEAD_BYTES = 1 << 16  # a title may be long


def write_page(path: Path, page: str, *, overwrite: bool = False) -> Path:
    """Write a page to a file.

    The page is written beside the file and takes its place at once. So an error leaves the old page, a reader never
    sees half of one, and nothing is written through a link.

    Args:
        path: The file. Its folder is made if it does not exist.
        page: The page.
        overwrite: True replaces a file that is no page of thalweg.

    Returns:
        The path.

    Raises:
        StoreError: If the file cannot be written, is a link or no regular file, or was not made by thalweg.
    """
    return write_file(path, page.encode("utf-8", "backslashreplace"), signs=() if overwrite else PAGE_SIGNATURES)


def write_file(path: Path, content: bytes, *, signs: Sequence[bytes] = ()) -> Path:
    """Write a file beside its place, then put it there at once.

    Args:
        path: The file. Its folder is made if it does not exist.
        content: The content.
        signs: A file that is replaced must hold one of these near its beginning; empty if any file may be replaced.

    Returns:
        The path.

    Raises:
        StoreError: If the file cannot be written, is a link or no regular file, or holds no sign.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = _check_place(path, signs)
        handle, name = tempfile.mkstemp(prefix=".thalweg-", suffix=path.suffix, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), mode)
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except (OSError, ValueError) as error:  # a path with a null character is no value
        if isinstance(error, StoreError):
            raise
        raise _unwritable(path, error) from error
    return path


def check_place(path: Path, *, signs: Sequence[bytes] = ()) -> None:
    """Raise the error that writing a file would raise, without a change to its folder.

    Args:
        path: The file. Its folder need not exist.
        signs: A file that is replaced must hold one of these near its beginning; empty if any file may be replaced.

    Raises:
        StoreError: If the file cannot be written, is a link or no regular file, or holds no sign.
    """
    try:
        folder = path.absolute().parent
        if folder.is_dir():
            _check_place(path, signs)
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise _unwritable(path, error) from error


def check_page(path: Path, *, overwrite: bool = False) -> None:
    """Raise the error that writing a page would raise, before the page is computed. Nothing is written.

    Args:
        path: The file.
        overwrite: True if a file that is no page of thalweg may be replaced.

    Raises:
        StoreError: If the page cannot be written.
    """
    check_place(path, signs=() if overwrite else PAGE_SIGNATURES)


def _unwritable(path: Path, error: Exception) -> StoreError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return StoreError(f"{path}: the report must be writable, got {reason}. Choose another place.")


def _check_place(path: Path, signs: Sequence[bytes]) -> int:
    """Return the mode of the new file; raise StoreError if the place is taken by something else than a page."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
    if stat.S_ISLNK(status.st_mode):
        raise StoreError(
            f"{path}: the report must be a file of its own, got a link to {os.readlink(path)}. Remove the link, or "
            "choose another place."
        )
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "something else"
        raise StoreError(f"{path}: the report must be a regular file, got {kind}. Choose another place.")
    if signs and status.st_size:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if not any(sign in head for sign in signs):
            raise StoreError(
                f"{path}: the report must not replace a file of someone else, got one that thalweg did not make. "
                "Choose another place, or ask for it: --overwrite, report(path, overwrite=True)."
            )
    return stat.S_IMODE(status.st_mode)
