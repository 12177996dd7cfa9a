"""The source of the user's functions, with one thing mended, as lines to paste."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from types import CodeType, FunctionType
from typing import Any

PLAIN_STEP = """def step(training, *batch):
    *inputs, target = batch
    training.optimizer.zero_grad()
    loss = training.loss_fn(training.model(*inputs), target)
    loss.backward()
    training.optimizer.step()
    return loss.detach()"""


def source_of(function: Any) -> str | None:
    """Return the text of a ``def``, without indentation; None for a lambda, a method or a function without a file."""
    function = inspect.unwrap(function) if callable(function) else function
    if not isinstance(function, FunctionType | CodeType):
        return None
    try:
        text = textwrap.dedent(inspect.getsource(function))
        tree = ast.parse(text)
    except (OSError, TypeError, SyntaxError):
        return None
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        return None
    return text.rstrip()


def definition(source: str) -> ast.FunctionDef:
    """Return the parsed ``def`` of a text of ``source_of``."""
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def arguments_of(source: str) -> list[str]:
    """Return the names of the positional arguments of a ``def``."""
    arguments = definition(source).args
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]


def named_step(source: str) -> str:
    """Return the text of a step, followed by a line that names it ``step`` if its name is another one."""
    name = definition(source).name
    return source if name == "step" else f"{source}\n\n\nstep = {name}"


def with_first_line(source: str, line: str) -> str:
    r"""Return a ``def`` with a line before its first statement.

    Example:
        >>> print(with_first_line("def f(x):\n    return x", "x += 1"))
        def f(x):
            x += 1
            return x
    """
    body = definition(source).body
    first = body[1] if len(body) > 1 and ast.get_docstring(definition(source)) is not None else body[0]
    lines = source.splitlines()
    if first.lineno == definition(source).lineno:  # def f(x): return x
        head, tail = lines[first.lineno - 1][: first.col_offset], lines[first.lineno - 1][first.col_offset :]
        return "\n".join([head.rstrip(), f"    {line}", f"    {tail}", *lines[first.lineno :]])
    return "\n".join([*lines[: first.lineno - 1], " " * first.col_offset + line, *lines[first.lineno - 1 :]])


def calls_of(source: str, names: Sequence[str]) -> list[ast.Call]:
    """Return the calls of functions of these names in a ``def``, whatever they are attributes of."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and called_name(node) in names]


def called_name(node: ast.Call) -> str:
    """Return the bare name of a called function; empty if it has none."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def replaced(source: str, node: ast.expr, text: str) -> str:
    """Return a text with other text in the place of an expression."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
    raw = source.encode()
    return (raw[:begin] + text.encode() + raw[end:]).decode()


def with_argument(source: str, names: Sequence[str], place: int, keywords: Sequence[str], value: str) -> str:
    r"""Return a ``def`` with another argument in every call of some functions.

    Args:
        source: The text of the ``def``.
        names: Names of the functions.
        place: The place of the argument.
        keywords: Its names as a keyword.
        value: The text of the new argument.

    Example:
        >>> with_argument("def f(x):\n    return g(x, 1)", ["g"], 1, ["y"], "2")
        'def f(x):\n    return g(x, 2)'
    """
    return edited(source, names, lambda node: _argument(node, place, keywords), value)


def edited(source: str, names: Sequence[str], choose: Callable[[ast.Call], ast.expr | None], value: str) -> str:
    """Return a ``def`` with a text in the place of an expression that is chosen in every call of some functions."""
    count = len(calls_of(source, names))
    for number in range(count):  # each replacement moves those after it
        node = choose(calls_of(source, names)[number])
        if node is not None:
            source = replaced(source, node, value)
    return source


def _argument(node: ast.Call, place: int, keywords: Sequence[str]) -> ast.expr | None:
    named = next((keyword.value for keyword in node.keywords if keyword.arg in keywords), None)
    return named or (node.args[place] if len(node.args) > place else None)


def names_in(function: Any) -> set[str]:
    """Return the global names and attributes that a function uses, also in functions defined inside it."""
    function = inspect.unwrap(function) if callable(function) else function
    waiting = [function.__code__] if isinstance(function, FunctionType) else []
    matches: set[str] = set()
    while waiting:
        code = waiting.pop()
        matches |= {*code.co_names, *code.co_freevars}
        matches |= {constant for constant in code.co_consts if isinstance(constant, str)}
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return matches


def commented(text: str) -> str:
    """Return a text as comments."""
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())
