"""The structure of the code: folders, layers inside packages, and the map that describes them."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "thalweg"
OURS = ("thalweg", "benchmarks", "cases")
MODULES = sorted(path for path in SOURCES.rglob("*.py"))
# Folders of each package, from those that import nothing of the package to those at its top; "" is its own files,
# except those with a place of their own in the order.
LAYERS = {
    "rules": ["core", "math", "composition", "wrappers", "explanation", ""],
    "engine": ["core", "graphs.py", "scalars", "eager", "kernels", ""],
    "optim": [
        "setting_warnings.py",
        "settings",
        "state",
        "parameters",
        "closures",
        "step",
        "captured",
        "checkpoints",
        "",
        "routing",
    ],
    "tasks": ["user_code.py", "reproducibility", "data", "", "tuning", "built_in", "catalogue.py"],
    "comparison": [
        "processes",
        "protocol",
        "contenders",
        "training",
        "planning",
        "results",
        "failures.py",
        "progress.py",
        "presentation",
        "execution",
        "",
    ],
}


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere, also inside functions and under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("thalweg")}


def exists(module: str, name: str) -> bool:
    """Return True if a module of ours is there, and is a folder with a module of this name or defines the name."""
    path = (SOURCES.parent if module.startswith("thalweg") else ROOT) / module.replace(".", "/")
    if (path / name).is_dir() or (path / f"{name}.py").exists():
        return True
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.exists() and (name in defined(file) or "__getattr__" in defined(file))


@cache
def defined(path: Path) -> set[str]:
    """Return the names that a file defines or imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {
        alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCES.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("package", LAYERS)
def test_folders_of_a_package_import_one_way(package: str) -> None:
    order = {name: place for place, name in enumerate(LAYERS[package])}
    folders = {path.parent.name for path in (SOURCES / package).glob("*/*.py")}
    assert folders == {name for name in order if name and not name.endswith(".py")}, "name each folder in LAYERS"

    def layer_of(path: Path) -> str:
        first = path.relative_to(SOURCES / package).parts[0]
        return first if first in order else ""

    files = {module_of(path): path for path in (SOURCES / package).rglob("*.py")}
    del files[f"thalweg.{package}"]  # it exports what the folders hold
    wrong = [
        f"{path.relative_to(SOURCES)} imports {name}"
        for path in files.values()
        for name in imported(path) & files.keys()
        if order[layer_of(files[name])] > order[layer_of(path)]
    ]
    assert not wrong


def test_no_import_cycle_not_even_for_types() -> None:
    modules = {module_of(path): path for path in MODULES}
    graph = {
        name: {other for other in imported(path) if other in modules and other != name}
        for name, path in modules.items()
    }
    # A package imports its own modules to export them, and they do not import it.
    graph = {name: {other for other in others if not name.startswith(other + ".")} for name, others in graph.items()}
    visited: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert visited.get(name) != 1, f"import cycle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name in visited:
            return
        visited[name] = 1
        for other in sorted(graph[name]):
            visit(other, (*trail, name))
        visited[name] = 2

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("package", ["engine", "optim", "tasks", "comparison"])
def test_folders_hold_at_most_twelve_modules(package: str) -> None:
    for folder in {path.parent for path in (SOURCES / package).rglob("*.py")}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 12, f"{folder.relative_to(SOURCES)} has {len(modules)} modules"


def test_imports_of_what_no_test_runs_find_their_names() -> None:
    """Most benchmarks are run by hand, so a module that moved would be noticed late. What they share is in `cases`."""
    folders = ("benchmarks", "cases", "examples", "docs")
    wrong = []
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = [(node.module or "", alias.name) for node in imports for alias in node.names]
        wrong += [
            f"{path.relative_to(ROOT)} imports {name} of {module}"
            for module, name in names
            if module.partition(".")[0] in (*OURS, "tests") and (module.startswith("tests") or not exists(module, name))
        ]
    assert not wrong


def test_files_can_be_read_at_one_sitting() -> None:
    folders = ("src", "benchmarks", "cases", "examples", "docs", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in files}
    assert not {name: lines for name, lines in long.items() if lines > 400}


def test_tests_lie_in_the_folders_of_what_they_test() -> None:
    packages = {path.name for path in SOURCES.iterdir() if path.is_dir()}
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    mirrored = {folder for folder in folders if folder.parts and folder.parts[0] in packages}
    assert len(mirrored) > 30
    assert not {folder.as_posix() for folder in mirrored if not (SOURCES / folder).is_dir()}


def test_paths_in_the_map_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Map of the files")[0]
    for path in re.findall(r"`((?:\w+/)+[\w.]*)`", text):
        if "NAME" in path or "COMMAND" in path:
            continue
        assert (ROOT / path).exists() or (SOURCES / path).exists(), f"ARCHITECTURE.md names {path}, which is not there"
