"""Rows: results as lines of JSON, one for each case and seed, so that an interrupted command resumes."""

import ast
import hashlib
import inspect
import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.doctor.trainings.cases import Case

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "benchmarks" / "doctor"
RUNS = ROOT / "runs" / "doctor"
Row = dict[str, Any]


def fingerprint(folders: Iterable[Path]) -> str:
    """Return a short hash of the Python sources in folders or files."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def _module_source(file: str, function: str) -> bytes:
    """Return the source of a module without its faults other than this one."""
    tree = ast.parse(Path(file).read_text())
    tree.body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef) or not node.decorator_list or node.name == function
    ]
    return ast.dump(tree).encode()


def case_fingerprint(case: Case) -> str:
    """Return a short hash of all that makes a case what it is."""
    if case.author is None:
        return ""
    digest = hashlib.sha256(_shared_sources().encode())
    digest.update(_module_source(inspect.getfile(case.author), case.author.__name__))
    return digest.hexdigest()[:12]


@cache
def _shared_sources() -> str:
    names = ("architectures.py", "cases.py", "data.py", "models.py", "run.py")
    return fingerprint([BENCH / "trainings" / name for name in names])


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, without a last line that was cut off."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append_row(path: Path, row: Row) -> None:
    """Append a row to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(finite(row)) + "\n")


def finite(value: Any) -> Any:
    """Return plain JSON: numbers that are not finite become None, others have six digits."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
