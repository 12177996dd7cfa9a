"""Interrupts: SIGTERM ends a comparison as Ctrl-C does, with the best answer so far and an exit code of its own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGINT_CODE, SIGTERM_CODE = 130, 143  # 128 and the number of the signal
INTERRUPTED = "interrupted."  # a command that keeps nothing
RESUME = "interrupted: finished trainings are stored. Rerun the same command to resume."
DIAGNOSIS_ENDED = (
    "interrupted: what is known by then is above. A diagnosis is not stored; the same command begins again."
)

_terminated = False
_message = INTERRUPTED


@contextmanager
def sigterm_interrupts(text: str) -> Iterator[None]:
    """Raise KeyboardInterrupt in a ``with`` block, or in a decorated command, on SIGTERM, too.

    Args:
        text: What an interrupted command says of its work.
    """
    global _message
    _message = text
    if threading.current_thread() is not threading.main_thread():  # only the main thread handles signals
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _terminated
        _terminated = True
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell does that to a process in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def begin() -> None:
    """Forget the earlier command of this process."""
    global _terminated, _message
    _terminated, _message = False, INTERRUPTED


def message() -> str:
    """Return what the command that an interrupt has ended says of its work."""
    return _message


def exit_code() -> int:
    """Return the exit code of a command that an interrupt has ended."""
    return SIGTERM_CODE if _terminated else SIGINT_CODE
