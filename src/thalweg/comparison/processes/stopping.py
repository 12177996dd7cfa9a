"""Leave a training that is under way: because it was stopped, because its time is over, or because of Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """Leaves a training that nobody needs any more. An ``except Exception`` of the user does not catch it."""


class OutOfTime(BaseException):
    """Leaves a training that takes too long, as an error of this training."""


_should_stop: list[Callable[[], bool]] = []  # of the trainings under way in this process
_interrupts = [0]  # Ctrl-C, counted while ``interrupts_counted``


def leave_if_stopped() -> None:
    """Raise Stopped if the training under way shall end. Called at each evaluation and each report."""
    if any(should_stop() for should_stop in _should_stop):
        raise Stopped


@contextmanager
def stopped_when(should_stop: Callable[[], bool]) -> Iterator[None]:
    """Stop trainings in this ``with`` block at their next evaluation once ``should_stop`` returns True."""
    _should_stop.append(should_stop)
    try:
        yield
    finally:
        _should_stop.remove(should_stop)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in a ``with`` block that takes longer.

    Only the main thread can be interrupted, and only while it runs Python; elsewhere there is no limit.

    Args:
        seconds: The limit, > 0; infinite for none.
    """
    if seconds == float("inf") or not _is_main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"no end after {seconds:.3g} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def interrupts_counted() -> Iterator[None]:
    """Count each Ctrl-C in a ``with`` block, so that ``is_interrupt`` can tell it from an error of the user's code."""
    previous: Any = signal.getsignal(signal.SIGINT)
    if not _is_main_thread() or not callable(previous):
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        _interrupts[0] += 1
        previous(number, frame)

    count = _interrupts[0]
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        _interrupts[0] = count
        signal.signal(signal.SIGINT, previous)


def is_interrupt(error: BaseException) -> bool:
    """Return True if an error is Ctrl-C, and none that the user's code has raised."""
    if not isinstance(error, KeyboardInterrupt) or not _is_main_thread():
        return False
    return _interrupts[0] > 0 or signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextmanager
def interrupts_delayed() -> Iterator[None]:
    """Delay Ctrl-C to the end of a ``with`` block that must not be left half done, also if an error ends it."""
    if not _is_main_thread():  # only the main thread is interrupted
        yield
        return
    signals: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: signals.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if signals:
            signal.raise_signal(signal.SIGINT)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
