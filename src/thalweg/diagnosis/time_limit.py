"""Time limits of the user's code: an endless loop raises an error instead of hanging the diagnosis."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeLimitExceeded(BaseException):
    """The user's code took too long. An ``except Exception`` of the user's does not stop it."""


def _raise(number: int, frame: FrameType | None) -> None:
    raise TimeLimitExceeded


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TimeLimitExceeded`` inside a ``with`` block that takes too long.

    In the main thread an alarm interrupts Python code, waits and sleeps; in other threads, and where the process's
    timer is in use, Python code alone.

    Args:
        seconds: The limit, above zero.

    Example:
        >>> with time_limit(60.0):
        ...     total = sum(range(10))
    """
    if threading.current_thread() is threading.main_thread() and _is_timer_free():
        earlier = signal.signal(signal.SIGALRM, _raise)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, earlier if earlier is not None else signal.SIG_DFL)
        return
    timer = threading.Timer(seconds, _raise_in, [threading.get_ident()])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_timer_free() -> bool:
    return hasattr(signal, "setitimer") and signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


def _raise_in(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeLimitExceeded))
