"""The errors that thalweg raises, and its warning.

Each error derives from :class:`ThalwegError` and, where PyTorch or Python raises a built-in exception in the same case,
from that exception. So existing ``except`` clauses keep working::

    ThalwegError
    ├── SettingError (ValueError)       a hyperparameter or an option is out of its bounds
    ├── KeywordError (TypeError)        an unknown keyword
    ├── UnknownNameError (LookupError)  an unknown name; the message lists the nearest names
    ├── ParameterError (ValueError)     the parameters cannot be optimized as requested
    │   ├── ParameterTypeError (TypeError)
    │   └── RoutingError                the role of a parameter is ambiguous or contradictory
    ├── TaskError                       a task cannot be loaded or trained
    ├── DiagnosisError                  a training cannot be diagnosed
    ├── BudgetError (ValueError)        a budget cannot be parsed
    ├── DeviceError (RuntimeError)      a device does not exist on this machine
    ├── StoreError (OSError)            a store or a report cannot be opened, read or written
    └── MissingPackageError (ModuleNotFoundError)  a package of the extra ``lab`` is not installed

A message reads ``Who: the condition, got the value. The remedy.``
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from types import TracebackType
from typing import Any
from unicodedata import category

INTERRUPTED_CODE = 130  # the exit code of a script that Ctrl-C has ended: 128 and the number of the signal


class ThalwegError(Exception):
    """Base class of all errors of thalweg."""


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
    """The role of a parameter is ambiguous, or an assigned role does not fit the parameter."""


class TaskError(ThalwegError):
    """A task cannot be loaded or trained."""


class DiagnosisError(ThalwegError):
    """A training cannot be diagnosed: it raises, has no batches, or is not what a diagnosis needs."""


class BudgetError(ThalwegError, ValueError):
    """A budget cannot be parsed, or it would never end."""


class DeviceError(ThalwegError, RuntimeError):
    """A device, such as ``cuda:1``, does not exist on this machine. The message lists the devices there are."""


class StoreError(ThalwegError, OSError):
    """A store or a report cannot be opened, read or written."""


class MissingPackageError(ThalwegError, ModuleNotFoundError):
    """A package of the extra ``lab`` is not installed. The message says how to install it."""


class ResultInterrupted(KeyboardInterrupt):
    """Ctrl-C has ended a run, and the exception holds what is known by then.

    A script that does not catch it prints the result and the message instead of a traceback, and ends with exit code
    130. A notebook shows the same.

    Attributes:
        result: The result so far; None if nothing is known.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result
        if not isinstance(getattr(sys.excepthook, "__self__", None), _InterruptHook):
            sys.excepthook = _InterruptHook(sys.excepthook).show

    def text(self) -> str:
        """Return the result, as its ``repr`` shows it, what its verdict allows, and the message. It never raises."""
        try:
            result = "" if self.result is None else f"{self.result!r}\n\n"
            verdict = getattr(self.result, "verdict", None)  # of a comparison
            result += "" if verdict is None else f"{verdict.text}\n\n"
        except Exception as error:  # a part that cannot be shown must not hide the message
            result = f"The result cannot be shown: {type(error).__name__}.\n\n"
        return printable(f"{result}Interrupted: {self}", keep="\n")

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows instead of a traceback."""
        return self.text().splitlines()


class _InterruptHook:
    """Shows an interrupt that nobody caught; any other exception goes to the hook that was there before."""

    def __init__(self, previous: Callable[..., Any]) -> None:
        self._previous = previous

    def show(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, ResultInterrupted):
            self._previous(kind, error, traceback)
            return
        is_script = not (hasattr(sys, "ps1") or sys.flags.interactive)
        if is_script and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process at once
        if sys.stderr is not None:
            print(error.text(), file=sys.stderr, flush=True)
        if is_script:
            raise SystemExit(INTERRUPTED_CODE)


class ComparisonInterrupted(ResultInterrupted):
    """Ctrl-C has ended a comparison. All trainings that had ended are stored; the same call resumes it.

    Attributes:
        result: The best answer so far: the comparison or suite, unfinished; None if no training had ended, or if a
            second Ctrl-C came before it was read.
    """

    def __init__(self, result: Any = None, *, is_stored: bool = True) -> None:
        """Make the exception.

        Args:
            result: The best answer so far.
            is_stored: False if the trainings are in the memory alone, so that no call resumes them.
        """
        done = "no result is known yet" if result is None else "its result so far is in the attribute result"
        again = "Run the same call again to resume it."
        if not is_stored:
            again = "It was not stored: pass store= to make the same call resume it."
        super().__init__(f"the comparison was interrupted; {done}. {again}", result)


class DiagnosisInterrupted(ResultInterrupted):
    """Ctrl-C has ended a diagnosis.

    Attributes:
        result: The diagnosis as far as it is known; None if nothing is known yet.
    """

    def __init__(self, result: Any = None) -> None:
        done = "nothing is known yet" if result is None else "what is known by then is in the attribute result"
        super().__init__(f"the diagnosis was interrupted; {done}.", result)


class SettingWarning(UserWarning):
    """The settings are within their bounds, but they conflict with each other or with a trait of the rule."""


def shown(value: object, max_length: int = 100) -> str:
    """Return the text of a value for an error message: its ``repr``, shortened. It never raises.

    Args:
        value: The value that a user passed.
        max_length: The largest number of characters.

    Returns:
        The text, or the name of the type if the value has no ``repr``, as an int of 5,000 digits.

    Example:
        >>> shown("x" * 200, max_length=10)
        "'xxxxxxxx…"
    """
    try:
        text = repr(value)
    except Exception:  # the code of a user's class
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # controls, marks without a shape, lone surrogates, line ends
_JOINERS = "\u200c\u200d"  # which scripts and emoji need


def printable(text: str, *, keep: str = "") -> str:
    r"""Return a text in which every character that does more than show itself is escaped, as ``repr`` escapes it.

    A terminal obeys control characters, and marks of the writing direction reorder a line. Lone surrogates cannot be
    written at all.

    Args:
        text: A text that came from a user or from a file.
        keep: Characters that stay, such as line feeds in code.

    Example:
        >>> print(printable("red: \x1b[31m"))
        red: \x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if is_hidden(char) and char not in keep else char for char in text
    )


def is_hidden(char: str) -> bool:
    """Return True if a character does more than show itself: it is a control, a mark or a lone surrogate."""
    return category(char) in _HIDDEN and char not in _JOINERS


# Names of a setting in papers and libraries. A rule knows one or two of each line.
_SYNONYMS = (
    ("lr", "learning_rate", "learningrate", "stepsize", "step_size", "eta", "alpha", "base_lr"),
    ("beta1", "momentum", "beta", "b1", "beta_1", "mu", "momentum_decay", "betas"),
    ("beta2", "alpha", "rho", "b2", "beta_2", "decay", "square_decay", "betas"),
    ("betas", "beta1", "beta2", "beta3"),
    ("eps", "epsilon", "adam_epsilon", "delta"),
    ("weight_decay", "wd", "l2", "decay", "lambda", "decoupled_weight_decay", "weightdecay"),
    ("history_size", "memory", "history", "m"),
    ("switch_at", "switch", "after", "switch_step"),
    ("every", "k", "sync_period", "la_steps", "sync_every"),
    ("slow_step", "la_alpha", "slow_lr"),
    ("max_norm", "clip", "clip_norm", "max_grad_norm"),
    ("update_every", "precondition_frequency", "update_freq", "update_interval"),
    ("warmup_steps", "warmup", "num_warmup_steps", "warm_up"),
    ("period", "t_0", "T_0", "cycle"),
)


def nearest_setting(name: object, valid: Iterable[str]) -> str:
    """Return the last sentence of an error message about an unknown setting.

    Args:
        name: The unknown name.
        valid: The names of all settings.

    Returns:
        The names that mean the same in papers and libraries; if there is none, what ``nearest`` returns.

    Example:
        >>> nearest_setting("learning_rate", ["lr", "beta1"]), nearest_setting("momentum", ["lr", "beta1"])
        ('Did you mean lr?', 'Did you mean beta1?')
    """
    names = list(valid)
    if isinstance(name, str) and not any(letters_of(name) == letters_of(known) for known in names):
        letters = letters_of(name)
        lines = [line for line in _SYNONYMS if letters in map(letters_of, line)]
        lines.sort(key=lambda line: letters_of(line[0]) != letters)
        meant = list(dict.fromkeys(known for line in lines for known in line if known in names))
        if meant:
            return f"Did you mean {' or '.join(meant[:3])}?"
    return nearest(name, names)


def letters_of(name: str) -> str:
    """Return a name in small letters, without hyphens, underscores and spaces.

    Args:
        name: The name.

    Example:
        >>> letters_of("Adam-W"), letters_of("schedule_free_adamw")
        ('adamw', 'schedulefreeadamw')
    """
    return name[:100].lower().translate(str.maketrans("", "", "-_ "))


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return the last sentence of an error message about an unknown name.

    Args:
        name: The unknown name.
        valid: All valid names.

    Returns:
        A question with up to three similar names, or the list of all valid names if no name is similar.

    Example:
        >>> nearest("adamv", ["adamw", "sgd"])
        'Did you mean adamw?'
    """
    names = sorted(valid)
    same = [known for known in names if isinstance(name, str) and letters_of(known) == letters_of(name) != ""]
    if len(same) == 1:
        return f"Did you mean {same[0]}?"
    matches = get_close_matches(name[:100].lower(), names, n=3, cutoff=0.5) if isinstance(name, str) else []
    if matches:
        return f"Did you mean {' or '.join(matches)}?"
    return f"Known: {', '.join(names)}."
