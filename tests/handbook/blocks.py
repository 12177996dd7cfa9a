"""The Python blocks of a page: which of them run, with which budget, and which do not and why."""

import ast
import io
import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

# A comment directly above a block that a test cannot run. The reason is for people who read the page's source.
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]{10,}) -->\n\Z")
_EXPECTED = re.compile(r"^print\(.*\)  # (?P<text>[^\s,;]+)$")
_BLOCK = re.compile(r"^(?P<indent> *)```python\n(?P<code>.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)

# Budgets on pages are those that a reader wants; a test wants the same path in less time.
SMALLER = (
    (re.compile(r"\bdiagnose\((?P<training>\w+)(?![^)]*steps=)"), r"diagnose(\g<training>, steps=100"),
    (re.compile(r"(?<=compare\()(?P<before>[^)]*?budget=)\"[^\"]+\""), r'\g<before>"4trials"'),
    (re.compile(r"(?<=compare_suite\()(?P<before>[^)]*?budget=)\"[^\"]+\""), r'\g<before>"2trials"'),
)


@dataclass(frozen=True)
class Block:
    """A Python block.

    Attributes:
        code: Its lines, without the indentation of a list.
        line: The line of the page at which it starts.
        reason: Why it is not run; empty if it is.
    """

    code: str
    line: int
    reason: str = ""


def blocks_of(page: Path) -> list[Block]:
    """Return the Python blocks of a page, in order."""
    text, blocks = page.read_text(), []
    for match in _BLOCK.finditer(text):
        marked = NOT_RUN.search(text[: match.start()])
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        blocks.append(Block(code, text[: match.start("code")].count("\n") + 1, marked["reason"] if marked else ""))
    return blocks


def smaller(code: str) -> str:
    """Return code with budgets that a test can afford."""
    for pattern, replacement in SMALLER:
        code = pattern.sub(replacement, code)
    return code


def run_blocks(page: Path, folder: Path) -> dict[str, object]:
    """Run the blocks of a page in order, in one namespace.

    Each block is also a file of the folder, so that errors, worker processes and `inspect` find its lines. If a comment
    of one word or number follows a call of print, as in ``print(x)  # 3``, this must be printed.

    Args:
        page: The page.
        folder: An empty folder.

    Returns:
        The namespace.
    """
    namespace: dict[str, object] = {"__name__": f"page_{page.stem}"}
    for number, block in enumerate(blocks_of(page)):
        if block.reason:
            continue
        code = "\n" * (block.line - 1) + smaller(block.code)
        file = folder / f"{page.stem}_{number}.py"
        file.write_text(code)
        lines = code.splitlines()
        for statement in ast.parse(code).body:
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(ast.Module([statement], []), str(file), "exec"), namespace)
            sys.stdout.write(printed.getvalue())
            expected = _EXPECTED.search(lines[(statement.end_lineno or 1) - 1])
            if expected and isinstance(statement, ast.Expr):
                assert printed.getvalue().strip() == expected["text"], f"{page.name}:{statement.lineno}"
    return namespace
