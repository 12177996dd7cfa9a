"""The errors that thalweg raises on purpose, and its warning.

Every error derives from :class:`ThalwegError`, and from the built-in exception that PyTorch or Python would have raised
in its place, so that existing ``except`` clauses keep working::

    ThalwegError
    ├── SettingError (ValueError)       a hyperparameter or an option is out of its bounds
    ├── KeywordError (TypeError)        an unknown keyword
    ├── UnknownNameError (LookupError)  an unknown name; the message lists the nearest names
    ├── ParameterError (ValueError)     the parameters cannot be optimized as requested
    │   ├── ParameterTypeError (TypeError)
    │   └── RoutingError                the role of a parameter is ambiguous or contradictory
    ├── TaskError                       a task cannot be loaded or trained
    ├── BudgetError (ValueError)        a budget is too small or cannot be parsed
    └── StoreError (OSError)            a store or a report cannot be opened, read or written

A message reads ``Who: the condition, got the value. The remedy.``
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ThalwegError(Exception):
    """Base class of all errors that thalweg raises on purpose."""


class SettingError(ThalwegError, ValueError):
    """A hyperparameter or an option is out of its bounds or has the wrong type."""


class KeywordError(ThalwegError, TypeError):
    """A keyword argument is unknown. Unknown keywords are never ignored."""


class UnknownNameError(ThalwegError, LookupError):
    """No optimizer, task, dataset or option has this name. The message lists the nearest names."""


class ParameterError(ThalwegError, ValueError):
    """The parameters cannot be optimized as requested."""


class ParameterTypeError(ParameterError, TypeError):
    """A parameter is not a tensor."""


class RoutingError(ParameterError):
    """The role of a parameter is ambiguous, or a role was assigned that does not fit it."""


class TaskError(ThalwegError):
    """A task cannot be loaded or trained."""


class BudgetError(ThalwegError, ValueError):
    """A budget cannot be parsed, or is smaller than the smallest comparison."""


class StoreError(ThalwegError, OSError):
    """A store or a report cannot be opened, read or written."""


class SettingWarning(UserWarning):
    """Settings are within their bounds, but contradict each other or the declaration of the rule."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the sentence that ends an error about an unknown name.

    Args:
        name: The unknown name.
        known: All names that are valid.

    Returns:
        A question with the nearest names, or the list of all names if none is near.

    Example:
        >>> nearest("adamv", ["adamw", "sgd"])
        'Did you mean adamw?'
    """
    known = sorted(known)
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known: {', '.join(known)}."
