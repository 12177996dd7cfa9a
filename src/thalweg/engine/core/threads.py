"""Threads: how many threads a step may use, and what becomes of OpenMP's threads when a process forks.

GNU's OpenMP, which torch's packages for Linux contain, keeps a team of idle threads for each thread that has computed
in parallel. A fork copies the team but not its threads. The next parallel computation of the forked process would wait
for them without end. Therefore:

- Work on few elements never uses the team.
- The team of a thread that forks is ended before the fork. Parent and child start a new one when they need it. This
  holds for the operations of torch too, which use the same OpenMP.
- A process that inherited a team all the same, because it was forked before this module was imported, steps on one
  thread: its state is `inherited_team`.

The OpenMP of LLVM and Intel takes care of forks itself.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local
from typing import Any

import torch

# One thread steps fewer elements before a second thread has woken up.
MIN_NUMEL_FOR_THREADS = 1 << 15

# True if OpenMP may hold a team whose threads have not survived a fork. It is set below and by forks.
inherited_team = False


def num_threads(num_elements: int) -> int:
    """Return the number of threads for work on so many elements.

    Args:
        num_elements: The elements of all tensors together.
    """
    return torch.get_num_threads() if num_elements >= MIN_NUMEL_FOR_THREADS and not inherited_team else 1


def num_cores() -> int:
    """Return the number of cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread."""
    num_before = torch.get_num_threads()
    if num_before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if num_before > 1:
            torch.set_num_threads(num_before)


# --- forks ------------------------------------------------------------------------------------------------------------


class _SymbolInfo(ctypes.Structure):
    """``Dl_info`` of dlfcn.h."""

    _fields_ = [
        ("file", ctypes.c_char_p),
        ("file_address", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("symbol_address", ctypes.c_void_p),
    ]


def _gnu_openmp() -> ctypes.PyDLL | None:
    """Return the OpenMP whose threads do not survive a fork; None if this process has another one, or none."""
    if not hasattr(os, "fork"):
        return None
    try:
        symbols, info = ctypes.PyDLL(None), _SymbolInfo()
        is_known = symbols.dladdr(ctypes.cast(symbols.GOMP_parallel, ctypes.c_void_p), ctypes.byref(info))
        library = ctypes.PyDLL(os.fsdecode(info.file)) if is_known else symbols
    except (AttributeError, OSError):  # torch was built without OpenMP, or against another interface
        return None
    return None if hasattr(library, "__kmpc_fork_call") else library  # LLVM's and Intel's have both interfaces


def _was_forked() -> bool:
    """Return True if this process may be a fork of another one: a new program clears this flag of Linux."""
    try:
        with open("/proc/self/stat") as file:
            flags = int(file.read().rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return True
    return bool(flags & 0x40)  # PF_FORKNOEXEC of linux/sched.h


def _end_team_before_forks(end_team: Callable[[int], int] | None) -> None:
    """Register the functions that end the team of a thread that forks.

    Args:
        end_team: ``omp_pause_resource_all``, which is in GNU's OpenMP since GCC 9; None if it is missing.
    """
    state: Any = local()  # of the thread that forks: another one may fork at the same time
    soft_pause = 1  # omp_pause_soft of omp.h

    def before() -> None:
        # A team without threads cannot be ended either.
        state.ended = not inherited_team and end_team is not None and end_team(soft_pause) == 0

    def after_in_child() -> None:
        global inherited_team
        inherited_team = not getattr(state, "ended", False)

    def after_in_parent() -> None:
        state.ended = False

    os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)


_OPENMP = _gnu_openmp()
if _OPENMP is not None:
    inherited_team = sys.platform == "linux" and _was_forked()
    _end_team_before_forks(getattr(_OPENMP, "omp_pause_resource_all", None))
