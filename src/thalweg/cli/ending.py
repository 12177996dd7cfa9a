"""The end of the program: threads that a task has left behind are waited for, and not for ever."""

import atexit
import os
import sys
import threading
import time
from collections.abc import Collection
from typing import NoReturn

from thalweg.cli.output import echo

PATIENCE_S = 30.0  # for threads of a task that may still be writing something
_OWN_THREADS = "thalweg"  # beginning of the names of our threads, which end by themselves


def end(code: int, callers_threads: Collection[threading.Thread] = ()) -> NoReturn:
    """Exit with a code, at the latest ``PATIENCE_S`` seconds after now.

    Python itself would wait for each thread that is no daemon, without a word and for ever.

    Args:
        code: The exit code.
        callers_threads: Threads that were there before the command began, which are its caller's.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    left = [thread for thread in threading.enumerate() if _is_of_task(thread) and thread not in callers_threads]
    if left:
        names = ", ".join(thread.name for thread in left)
        echo(
            f"the task left a thread running ({names}). It is ended in {PATIENCE_S:.0f} s; "
            "join it in the task, or make it a daemon.",
            err=True,
        )
    for thread in left:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    if any(thread.is_alive() for thread in left):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


def _is_of_task(thread: threading.Thread) -> bool:
    is_ours = thread is threading.main_thread() or thread is threading.current_thread()
    return not (is_ours or thread.daemon or thread.name.startswith(_OWN_THREADS))
