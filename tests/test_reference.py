"""The documentation builds without warnings. Takes about 15 seconds."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg
from thalweg import comparison, errors, optim, rules, tasks, testing, trajectories

ROOT = Path(__file__).parents[1]
PUBLIC_MODULES = (comparison, errors, optim, rules, tasks, testing, trajectories)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "--quiet", "-c", "docs", ".", str(folder)]
    return folder, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_documentation_builds_without_warnings(build: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, completed = build
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""


@pytest.mark.parametrize("module", PUBLIC_MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(
    module: object, build: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, _ = build
    short_name = module.__name__.partition(".")[2]
    page = (folder / "docs" / "reference" / f"{short_name}.html").read_text()
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)  # type aliases and constants have no docstring
        assert not (inspect.isclass(value) or inspect.isfunction(value)) or f'id="{module.__name__}.{name}"' in page, (
            f"{module.__name__}.{name}"
        )


def test_the_pages_show_formulas_and_link_every_module(
    build: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = build
    reference = folder / "docs" / "reference"
    assert "m_t = β₁ m_{t-1} + (1 - β₁) g_t" in (reference / "optim.html").read_text()
    index = (reference / "api.html").read_text()
    for module in PUBLIC_MODULES:
        assert module.__name__ in index
    assert thalweg.__version__ in index
