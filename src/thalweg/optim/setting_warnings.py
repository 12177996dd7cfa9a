"""Setting warnings: an optimizer gives a warning once, at the line of the user's code that caused it."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from thalweg.errors import SettingWarning

_SUPPRESSED = ContextVar("suppressed", default=False)
_SKIPPED_PACKAGES = ("thalweg", "torch")  # torch's schedulers and hooks lie between a user's call and ours


class WarnOnce:
    """Warnings of one optimizer, each given once. An optimizer created in `suppress_warnings` gives none."""

    def __init__(self) -> None:
        self._suppressed = _SUPPRESSED.get()
        self._topics: set[str] = set()

    def warn(self, topic: str, message: str) -> None:
        """Warn, unless there was a warning on this topic."""
        if not self._suppressed and topic not in self._topics:
            self._topics.add(topic)
            warn(message)


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Return a context in which the created optimizers never warn of their settings, neither then nor later."""
    token = _SUPPRESSED.set(True)
    try:
        yield
    finally:
        _SUPPRESSED.reset(token)


def warn(message: str) -> None:
    """Give a SettingWarning at the innermost line that is neither in thalweg nor in torch."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _SKIPPED_PACKAGES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, SettingWarning, stacklevel=level)
