"""The user's code in messages: the line that made, defined or raised something, and the remedy of common errors.

Every message about a task is made here, so every message names a line: the innermost line of the user's code in a
traceback, else the line that defines the part at fault, else the line that made the task.
"""

import functools
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType

from thalweg.errors import TaskError, ThalwegError

_LIBRARY_FOLDERS = tuple(
    f"{folder}/" for folder in {str(Path(__file__).parents[1]), *map(sysconfig.get_path, ("stdlib", "platstdlib"))}
)
_LIBRARY_PARTS = ("site-packages", "dist-packages", "<frozen", "<__array_function__")
_GENERATED = "<string>"  # the file of the `__init__` that a dataclass generates, and of `python -c`
_NAMES_A_LINE = re.compile(r"\(at [^()]+:\d+\)")
MAX_ERROR = 600  # characters of an error's own text

# From the text of an error to its remedy. The errors are those of torch and Python, which name tensors and no task.
_REMEDIES = tuple(
    (re.compile(pattern), remedy)
    for pattern, remedy in (
        (
            r"expected scalar type Long but found|expected target.*Long|\"nll_loss.*not implemented for",
            "Class labels must have dtype int64: pass labels.long().",
        ),
        (
            r"Target -?\d+ is out of bounds|(Assertion|target).*n_classes",
            "Class labels must lie between 0 and the number of the model's outputs minus 1.",
        ),
        (
            r"got Byte and|Byte and Float|Input type \(unsigned char|\(torch\.ByteTensor|got Char and",
            "The inputs are whole numbers of 8 bits: pass inputs.float() / 255, say.",
        ),
        (
            r"got Double and Float|got: double != float|Input type \(double\)|scalar type Float but found Double"
            r"|Found dtype Double",
            "The data are float64 and the model is not: pass data.float(), or make the model with .double().",
        ),
        (
            r"got Float and Double|got: float != double|Input type \(float\) and bias type \(double\)"
            r"|scalar type Double but found Float|Found dtype Float but expected Double",
            "The model is float64 and the data are not: pass data.double().",
        ),
        (
            r"got (Half|BFloat16) and Float|Input type \((c10::|CPU|torch\.)(Half|BFloat16)\w*\) and \w+ type"
            r"|RNN input dtype \(torch\.b?float16\)|got: c10::\w+ != float",
            "The data have fewer bits than the model: pass data.float(), and Task(..., precision=...) to compute in 16 "
            "bits.",
        ),
        (
            # Each operation has words of its own for two dtypes, one of 16 bits and one of 32.
            r"(?=.*\b(same|match|expect(ed)?)\b)(?=.*(Half|BFloat16|float16))"
            r"(?=.*\b([Ff]loat|float32|FloatTensor)\b)"
            r"|mixed dtype \(CPU\): expect parameter to have scalar type of Float",
            "The model has numbers of 16 bits where the data have 32. Make the model in float32 and compute in 16 "
            'bits: Task(..., precision="bfloat16"), or torch.autocast in a training function. Or cast what enters the '
            "model in the loss, model(batch[0].bfloat16()), and what leaves it, output.float().",
        ),
        (
            r"got Complex\w+ and",
            "The data are complex and the model is not: pass torch.view_as_real(data), or make a complex model.",
        ),
        (
            r"'Sparse\w+' backend|layout (torch\.)?[Ss]parse",
            "Sparse tensors have no rows to choose: pass data.to_dense(), or a DataLoader that makes batches of them.",
        ),
        (
            r"multi-target not supported",
            "Class labels must be one whole number for each example: pass labels.argmax(1) of one-hot labels.",
        ),
        (
            r"got (Long|Int|Short) and Float|Input type \(long|Found dtype Long but expected Float"
            r"|result type Float can't be cast to",
            "Whole numbers stand where the model or the loss needs real ones: pass data.float().",
        ),
        (
            r"Expected more than 1 value per channel|Expected more than 1 spatial element",
            "A normalization layer cannot train on a batch of one example. Choose a batch_size that leaves no single "
            "example at the end of a pass, or drop_last=True of a DataLoader.",
        ),
        (
            r"does not require grad and does not have a grad_fn",
            "The loss does not depend on the trained parameters: look for .detach(), .item(), no_grad() and frozen "
            "parameters. A loss or a metric that differentiates is evaluated with Task(..., needs_grad=True).",
        ),
        (
            r"argument 'input'.* must be Tensor, not|has no attribute 'dim'|has no attribute 'size'",
            "The model or the loss got an object where it needs a tensor. Write the loss as a function (model, batch), "
            "and take the tensor there: model(batch[0]).logits, or model(batch[0])[0].",
        ),
        (
            r"forward\(\) (takes \d+ positional|missing \d+ required positional)",
            "supervised(...) passes all tensors of a batch but the last to the model. Write the loss as a function "
            "(model, batch) to pass others.",
        ),
        (
            r"__init__\(\) missing \d+ required",
            "A model is made without arguments: pass lambda: Model(...).",
        ),
        (
            r"^TypeError: (report|make_optimizer)\(\)",
            "Write report(value, train=..., test=..., f1=...), with one value and further numbers by name; and "
            'make_optimizer(model), make_optimizer(groups, model=model) or make_optimizer(model, name="d").',
        ),
        (
            r"<lambda>\(\) (takes|missing)|\(\) (takes \d+ positional arguments? but|missing \d+ required positional)",
            "Look at the arguments that thalweg passes: model() and data() get none, loss and metric get "
            "(model, batch).",
        ),
        (
            r"Length of IterableDataset",
            "The __len__ of the dataset must be the number of examples in a pass.",
        ),
    )
)


def task_error(who: str, condition: str, got: str, remedy: str = "", *, where: str = "") -> TaskError:
    """Return the error ``who: condition, got ... (at file:line). Remedy.``

    Args:
        who: Name of the task.
        condition: The condition that must hold.
        got: The value or event instead; empty if the condition says it.
        remedy: Sentences that say what to do.
        where: File and line of the user's code; empty if unknown.

    Example:
        >>> print(task_error("digits", "model must be a function", "None", "Pass a class.", where="mine.py:3"))
        digits: model must be a function, got None (at mine.py:3). Pass a class.
    """
    start = f"{who}: {condition}" + (f", got {got}" if got else "")
    text = start if not where or f"(at {where})" in start else f"{start} (at {where})"
    return TaskError(f"{text}. {remedy}".rstrip())


def as_task_error(condition: str, error: BaseException, where: str = "") -> TaskError:
    """Return a TaskError with the condition, the original error, the line of the user's code and the remedy.

    Args:
        condition: The condition that must hold, as the beginning of the message: ``"digits: the task must train"``.
        error: The error of the user's code.
        where: File and line to name if the traceback has no line of the user's.
    """
    who, _, rest = condition.partition(": ")
    return task_error(who, rest, describe(error), remedy_of(error), where=line_of_error(error) or where)


@contextmanager
def raise_task_errors(condition: str, where: Callable[[], str] | str = "") -> Iterator[None]:
    """Turn an error of the user's code in this ``with`` block into a TaskError.

    Args:
        condition: The condition that must hold, as the beginning of the message: ``"digits: the task must train"``.
        where: File and line to name if the traceback has no line of the user's, or a function that returns them.
    """
    try:
        yield
    except ThalwegError:
        raise
    except (Exception, SystemExit) as error:
        raise as_task_error(condition, error, where() if callable(where) else where) from error


def describe(error: BaseException) -> str:
    """Return the kind and the text of an error, shortened, without a full stop. It never raises."""
    try:
        text = str(error).strip().rstrip(".")
    except Exception as another:  # an error of the user's may be unable to describe itself
        text = f"without a text ({type(another).__name__})"
    text = text.encode(errors="replace").decode()  # a store holds no half characters
    text = text if len(text) <= MAX_ERROR else f"{text[: MAX_ERROR - 1]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def describe_with_line(error: BaseException, where: Callable[[], str] = lambda: "") -> str:
    """Return the kind and the text of an error with the user's line, and the remedy if it is a common error.

    Args:
        error: The error.
        where: Returns file and line to name if the traceback has no line of the user's.
    """
    text, remedy = describe(error), remedy_of(error)
    if isinstance(error, ThalwegError) and _NAMES_A_LINE.search(text):
        return text
    line = line_of_error(error) or where()
    text += f" (at {line})" if line and f"(at {line})" not in text else ""
    return f"{text}. {remedy}" if remedy else text


def remedy_of(error: BaseException) -> str:
    """Return the sentences that say what to do about a common error of torch or Python; empty if it is no such error.

    Example:
        >>> remedy_of(RuntimeError("expected scalar type Long but found Float"))
        'Class labels must have dtype int64: pass labels.long().'
    """
    if isinstance(error, ThalwegError):  # it says so itself
        return ""
    text = describe(error)
    return next((remedy for pattern, remedy in _REMEDIES if pattern.search(text)), "")


def line_of_error(error: BaseException) -> str:
    """Return the innermost line of the user's code in the traceback of an error; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if is_users_file(frame.filename, frame.name)]
    return _location(users[-1].filename, users[-1].lineno) if users else ""


def calling_line() -> str:
    """Return the innermost line of the user's code that is being executed; empty if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        if is_users_file(frame.f_code.co_filename, frame.f_code.co_name):
            return _location(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    return ""


def user_line() -> str:
    """Return the innermost line of the user's code that is being executed, as `` (at file:line)``; empty if unknown."""
    line = calling_line()
    return f" (at {line})" if line else ""


def line_of(part: object) -> str:
    """Return the line that defines a function or class of the user's; empty for those of libraries.

    Args:
        part: A function, method, class, ``functools.partial`` or object with ``__call__``. An attribute ``made_at``,
            as objects of thalweg have that users make, is the answer itself.
    """
    while isinstance(part, functools.partial):
        part = part.func
    made_at = getattr(part, "made_at", "")
    if isinstance(made_at, str) and made_at:
        return made_at
    if isinstance(part, type):
        return _line_of_class(part)
    code = _code_of(part)
    if code is None:
        return _line_of_class(type(part))
    return _location(code.co_filename, code.co_firstlineno) if is_users_file(code.co_filename, code.co_name) else ""


def _code_of(part: object) -> CodeType | None:
    function = inspect.unwrap(part) if callable(part) else part
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _line_of_class(kind: type) -> str:
    """Return the line of a class; that of its ``__init__`` if its source cannot be read."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None) or ""
    if file and not is_users_file(file, ""):
        return ""
    try:
        return _location(inspect.getsourcefile(kind) or file, inspect.getsourcelines(kind)[1])
    except (OSError, TypeError):  # typed at a prompt
        code = _code_of(kind.__init__)  # type: ignore[misc]  # of the class itself
        return _location(code.co_filename, code.co_firstlineno) if code and is_users_file(code.co_filename, "") else ""


def is_users_file(filename: str, function: str = "") -> bool:
    """Return True if a file is neither thalweg's, nor Python's, nor of an installed package.

    Args:
        filename: The file of a frame.
        function: Name of the function in the frame; one of generated code has the same file as ``python -c``.
    """
    if filename == _GENERATED:
        return function != "__init__"
    return not filename.startswith(_LIBRARY_FOLDERS) and not any(part in filename for part in _LIBRARY_PARTS)


def _location(filename: str, line: int | None) -> str:
    """Return ``file:line``; for a cell of a notebook its number instead of the name of a temporary file."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    names = getattr(getattr(shell, "compile", None), "format_code_name", lambda name: None)(filename)
    return f"{' '.join(names)}:{line}" if names else f"{filename}:{line}"
