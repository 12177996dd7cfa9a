"""Every program of this repository answers ``--help``, and starts nothing then."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Runs each program in turn, up to the end of its help, and prints its name with its exit code.
RUN_ALL = """
import contextlib, io, os, runpy, sys

for path in sys.argv[1:]:
    sys.argv = [path, "--help"]
    sys.path.insert(0, os.path.dirname(path))
    out, code = io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            code = end.code
    sys.path.remove(os.path.dirname(path))
    print(path, code, out.getvalue().startswith("usage: "), flush=True)
"""


def main_block_of(path: Path) -> ast.If | None:
    """Return the block of a file that runs if it is a program."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return next((node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)), None)


PROGRAMS = [
    path for folder in ("benchmarks", "docs") for path in sorted((ROOT / folder).rglob("*.py")) if main_block_of(path)
]


def calls_of(statements: list[ast.stmt]) -> list[str]:
    """Return the names of the functions that statements call, in order."""
    nodes = [node for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return [ast.unparse(node.func) for node in sorted(nodes, key=lambda node: (node.end_lineno, node.end_col_offset))]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_program_parses_its_arguments(path: Path) -> None:
    block = main_block_of(path)
    assert block is not None
    functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
    calls = calls_of(block.body)
    called = [call for name in calls if name in functions for call in calls_of(functions[name].body)]
    assert any(call.endswith(".parse_args") for call in calls + called), "use argparse, so that --help starts nothing"


def test_all_programs_answer_help_and_start_nothing() -> None:
    paths = [str(path) for path in PROGRAMS]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, *paths], capture_output=True, text=True, cwd=ROOT, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"{path} 0 True" for path in paths]
