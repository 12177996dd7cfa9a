"""The Python blocks of a page: the one reader of them, and the one way to run them."""

import ast
import io
import re
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

# A comment directly above a block that a test cannot run. The reason is for people who read the page's source.
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]{10,}) -->\n\Z")
_EXPECTED = re.compile(r"^print\(.*\)  # (?P<text>[^\s,;]+)$")
_BLOCK = re.compile(r"^(?P<indent> *)```python\n(?P<code>.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
_SHOWN = re.compile(r"\n\n```text\n(?P<text>.*?)^```$", flags=re.DOTALL | re.MULTILINE)

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
        shown: The output that the page shows below it; empty if it shows none.
    """

    code: str
    line: int
    reason: str = ""
    shown: str = ""


@dataclass(frozen=True)
class PageRun:
    """The blocks of a page after they were run.

    Attributes:
        page: The page.
        folder: The folder in which they ran.
        blocks: The blocks that ran, in order.
        printed: The output of each of these blocks.
        namespace: The names that the blocks defined.
    """

    page: Path
    folder: Path
    blocks: list[Block] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    namespace: dict = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The output of all blocks."""
        return "".join(self.printed)


def blocks_of(page: Path) -> list[Block]:
    """Return the Python blocks of a page, in order."""
    return blocks_in(page.read_text(encoding="utf-8"))


def blocks_in(text: str) -> list[Block]:
    """Return the Python blocks of a text, in order."""
    blocks = []
    for match in _BLOCK.finditer(text):
        marked = NOT_RUN.search(text[: match.start()])
        shown = _SHOWN.match(text, match.end())
        blocks.append(
            Block(
                code="".join(line.removeprefix(match["indent"]) for line in match["code"].splitlines(keepends=True)),
                line=text[: match.start("code")].count("\n") + 1,
                reason=marked["reason"] if marked else "",
                shown=shown["text"] if shown else "",
            )
        )
    return blocks


def smaller(code: str) -> str:
    """Return code with budgets that a test can afford."""
    for pattern, replacement in SMALLER:
        code = pattern.sub(replacement, code)
    return code


def run_blocks(page: Path, folder: Path) -> PageRun:
    """Run the blocks of a page in order, in one namespace.

    Each block is also a file of the folder, so that errors, worker processes and `inspect` find its lines. If a comment
    of one word or number follows a call of print, as in ``print(x)  # 3``, this must be printed. What stands below
    ``if __name__ == "__main__"`` runs.

    Args:
        page: The page.
        folder: An empty folder.
    """
    run = PageRun(page, folder, namespace={"__name__": f"page_{page.stem}"})
    for number, block in enumerate(blocks_of(page)):
        if block.reason:
            continue
        code = "\n" * (block.line - 1) + smaller(block.code)
        file = folder / f"{page.stem}_{number}.py"
        file.write_text(code, encoding="utf-8")
        run.blocks.append(block)
        run.printed.append("".join(_run(statement, code, file, run) for statement in ast.parse(code).body))
    return run


def _run(statement: ast.stmt, code: str, file: Path, run: PageRun) -> str:
    """Run a statement and return what it prints."""
    printed = io.StringIO()
    guarded = isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)
    with redirect_stdout(printed):
        exec(
            compile(ast.Module([statement], []), str(file), "exec"),
            run.namespace | {"__name__": "__main__"} if guarded else run.namespace,
        )
    sys.stdout.write(printed.getvalue())
    expected = _EXPECTED.search(code.splitlines()[(statement.end_lineno or 1) - 1])
    if expected and isinstance(statement, ast.Expr):
        assert printed.getvalue().strip() == expected["text"], f"{run.page.name}:{statement.lineno}"
    return printed.getvalue()
