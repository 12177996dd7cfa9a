"""Warnings about settings: each said once for an optimizer, at the line outside of this package that it comes from."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from thalweg.errors import SettingWarning

_SILENT = ContextVar("silent", default=False)
_OURS = ("thalweg", "torch")  # torch's schedulers and hooks lie between a user's call and ours


class WarnOnce:
    """Warnings that were given already. Optimizers made in `suppress_warnings` give none."""

    def __init__(self) -> None:
        self._silent = _SILENT.get()
        self._about: set[str] = set()

    def once(self, about: str, message: str) -> None:
        """Warn, unless something about this was said."""
        if not self._silent and about not in self._about:
            self._about.add(about)
            warn(message)


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """A `with` block in which optimizers are made that say nothing of their settings, then or later."""
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


def warn(message: str) -> None:
    """Warn at the innermost line that is neither ours nor torch's."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, SettingWarning, stacklevel=level)
