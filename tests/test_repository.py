"""The files of the repository: each is of a kind that belongs to its folder, and no larger than such a file needs."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KB = 1000
# Patterns of paths, and the largest size of such a file. A * also matches "/". The first pattern that matches counts.
KINDS = {
    # Single files that are larger than others of their kind
    "ARCHITECTURE.md": 150 * KB,
    "lab/LOG.md": 150 * KB,
    "src/thalweg/optim/__init__.pyi": 200 * KB,
    "benchmarks/records/conformance.json": 1500 * KB,
    # Banks of trainings, which replays read
    "benchmarks/calibration/bank.npz": 1500 * KB,
    "benchmarks/choosing_in_the_wild/bank.jsonl.xz": 1000 * KB,
    # Libraries of others, with their licences
    "src/thalweg/report/vendor/*.min.js": 400 * KB,
    "src/thalweg/report/vendor/LICENSE.*": 40 * KB,
    "src/thalweg/report/vendor/fetch.sh": 10 * KB,
    "tests/report/vendor/axe.min.js": 700 * KB,
    "tests/report/vendor/LICENSE": 30 * KB,
    # Code
    "src/*.py": 60 * KB,
    "src/thalweg/py.typed": 0,
    "src/thalweg/report/*.html": 30 * KB,
    "src/thalweg/report/static/*.js": 60 * KB,
    "src/thalweg/report/static/*.css": 60 * KB,
    "tests/*.py": 60 * KB,
    "cases/*.py": 60 * KB,
    "benchmarks/*/*.py": 60 * KB,
    "examples/*.py": 30 * KB,
    "docs/*.py": 60 * KB,
    ".ci/run": 5 * KB,
    # Documents and their images
    "*.md": 80 * KB,
    "docs/reference/*.rst": 20 * KB,
    "docs/*images/*.svg": 100 * KB,
    "docs/*images/*.png": 400 * KB,
    "docs/*images/*.webp": 100 * KB,
    "docs/_static/*.css": 30 * KB,
    "docs/_static/*.svg": 30 * KB,
    # Records of measurements
    "benchmarks/records/*.json": 250 * KB,
    "lab/records/*.json": 100 * KB,
}
TOP_LEVEL = {  # files at the root, beside documents
    ".gitignore",
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "constraints.txt",
    "pyproject.toml",
}


def misplaced(sizes: Iterable[tuple[str, int]]) -> list[str]:
    """Return a sentence for each file, by path and size in bytes, that does not belong into the repository."""
    sentences = []
    for path, size in sizes:
        limit = next((most for pattern, most in KINDS.items() if fnmatchcase(path, pattern)), None)
        if limit is None and path in TOP_LEVEL:
            continue
        if limit is None:
            sentences.append(f"{path}: no file of this kind belongs here. Remove it: git rm --cached '{path}'")
        elif size > limit:
            sentences.append(f"{path}: a file of this kind has at most {limit:,} bytes, got {size:,}")
    return sentences


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("without git it is not known which files are tracked")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]  # also if the clone has another owner
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in listed.split("\0") if path and (ROOT / path).exists()]


def test_every_tracked_file_is_of_a_kind_that_belongs_to_its_folder(tracked: list[str]) -> None:
    wrong = misplaced((path, (ROOT / path).stat().st_size) for path in tracked)
    shown = "\n".join([*wrong[:10], *([f"and {len(wrong) - 10} more"] if len(wrong) > 10 else [])])
    assert not wrong, f"files that do not belong here; a new kind: tests/test_repository.py\n{shown}"


def test_the_folders_of_the_repository_are_those_of_the_architecture(tracked: list[str]) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.partition("\n## Folders\n")[2].partition("\n## ")[0]
    assert {path.partition("/")[0] for path in tracked if "/" in path} == set(
        re.findall(r"^\| `([^`]+)/` \|", section, re.M)
    )


def test_every_kind_has_files(tracked: list[str]) -> None:
    used = {next((pattern for pattern in KINDS if fnmatchcase(path, pattern)), path) for path in tracked}
    assert used >= KINDS.keys() | TOP_LEVEL, "a kind without a file: remove it"


def test_the_programs_that_documents_and_sources_name_exist(tracked: list[str]) -> None:
    texts = [path for path in tracked if path.endswith((".md", ".py")) or path == "Makefile"]
    history = ("CHANGELOG.md", "lab/", "tests/")  # the past; paths that tests make up
    wrong = []
    for path in texts:
        if path.startswith(history):
            continue
        text = (ROOT / path).read_text()
        named = re.findall(r"(?<![\w./-])((?:benchmarks|cases|docs|examples|tests)/[\w/-]+\.py)\b", text)
        modules = re.findall(r"python -m ((?:benchmarks|cases)[\w.]*\w)", text)
        packages = [module.replace(".", "/") for module in modules]
        programs = [f"{name}.py" if f"{name}.py" in tracked else f"{name}/__main__.py" for name in packages]
        wrong += [f"{path}: {name}" for name in [*named, *programs] if name not in tracked and "/NAME.py" not in name]
    assert not wrong, "these programs do not exist; correct the names"


@pytest.mark.parametrize(
    "path",
    [
        "cache_int/thalweg/kernels/0087c4ec7921f6ff385266846ce8bc3a.so",
        "cache_int/matplotlib/fontlist-v3.11.0.json",
        "src/thalweg/engine/kernels/step.so",
        "src/thalweg/notes.json",
        "benchmarks/records/steps.py.orig",
        "benchmarks/steps.py",  # each program lies in the folder for what it measures
        "runs/demo/results.db",
        "docs/choosing/chart.png",
        "build/page.html",
        "setup.py",
        "core",
    ],
)
def test_what_a_program_left_behind_is_found(path: str) -> None:
    (sentence,) = misplaced([(path, 10)])
    assert sentence.startswith(f"{path}: no file of this kind")


def test_a_file_that_is_too_large_is_found() -> None:
    assert not misplaced([("benchmarks/records/steps.json", 250 * KB), ("src/thalweg/py.typed", 0)])
    (sentence,) = misplaced([("benchmarks/records/steps.json", 250 * KB + 1)])
    assert sentence.endswith("has at most 250,000 bytes, got 250,001")
