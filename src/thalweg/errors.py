"""Every error thalweg raises on purpose.

    ThalwegError
    ├── SettingError (ValueError)       a hyperparameter or an option is out of its bounds
    ├── KeywordError (TypeError)        an argument that nobody takes
    ├── UnknownNameError (LookupError)  nothing has that name; the message lists the nearest
    ├── ParameterError (ValueError)     what was handed over to be optimized cannot be
    │   ├── ParameterTypeError (TypeError)
    │   └── RoutingError            what a parameter is for cannot be told, or was told wrongly
    ├── TaskError                       a task cannot be loaded, or cannot be trained at all
    ├── BudgetError (ValueError)        a budget is too small, or cannot be read
    └── StoreError (OSError)            a store or report cannot be opened, read or written

and the warning: SettingWarning (UserWarning), of settings within their bounds that contradict what a rule declares.

Message texts read `Who: what must hold, got what. What to do.` Each class also derives from the built-in exception
that torch or Python would have raised, so code written for those keeps working.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ThalwegError(Exception):
    """The root of the tree: catch this to catch everything thalweg raises on purpose."""


class SettingError(ThalwegError, ValueError):
    """A hyperparameter or an option is out of its bounds, or of the wrong kind."""


class KeywordError(ThalwegError, TypeError):
    """An argument was given that nobody takes; it is never dropped in silence."""


class UnknownNameError(ThalwegError, LookupError):
    """Nothing has that name."""


class ParameterError(ThalwegError, ValueError):
    """What was handed over to be optimized cannot be."""


class ParameterTypeError(ParameterError, TypeError):
    """What was handed over to be optimized is not a tensor."""


class RoutingError(ParameterError):
    """What a parameter is for cannot be told, or was told wrongly."""


class TaskError(ThalwegError):
    """A task cannot be loaded, or cannot be trained at all."""


class BudgetError(ThalwegError, ValueError):
    """A budget cannot be read, or is less than the least that gives an answer."""


class StoreError(ThalwegError, OSError):
    """A store or a report cannot be opened, read or written."""


class SettingWarning(UserWarning):
    """Settings are within their bounds, but contradict what a rule declares of itself, or each other."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that ends an error about an unknown `name`: the nearest of the `known` ones, or all of them."""
    known = sorted(known)
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known: {', '.join(known)}."
