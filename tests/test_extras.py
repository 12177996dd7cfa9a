"""The extra ``lab``: without one of its packages, the core works and everything else says how to install them."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from thalweg.errors import MissingPackageError
from thalweg.extras import LAB, missing_packages, require_lab

ROOT = Path(__file__).parent.parent
INSTALL = "Run: pip install 'thalweg[lab]'"

# Run by every Python that finds it on its path: these modules are not there.
HIDE = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {modules!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


def run_without(modules: list[str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments where some modules cannot be imported."""
    (folder / "sitecustomize.py").write_text(HIDE.format(modules=modules))
    path = os.pathsep.join([str(folder), str(ROOT / "src")])
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_extra_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [requirement.partition(">")[0] for requirement in project["optional-dependencies"]["lab"]] == sorted(
        LAB.values()
    )
    assert project["dependencies"] == ["torch>=2.8"]


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["--version"], ["compare", "digits"], ["bench", "--help"], ["?"]]
)
@pytest.mark.parametrize("missing", [["click"], ["rich"], list(LAB)])
def test_every_command_says_how_to_install_the_extra(missing: list[str], arguments: list[str], tmp_path: Path) -> None:
    completed = run_without(missing, tmp_path, "-m", "thalweg", *arguments)
    names = " and ".join({"click", "rich"} & set(missing)) if len(missing) == 1 else "click, rich"
    message = f"error: thalweg: the packages of the extra 'lab' must be installed, got none of {names}. {INSTALL}\n"
    assert (completed.returncode, completed.stdout, completed.stderr) == (2, "", message)


def test_a_command_says_so_when_it_needs_another_package(tmp_path: Path) -> None:
    completed = run_without(["sqlalchemy", "sklearn"], tmp_path, "-m", "thalweg", "tasks")
    message = (
        "error: thalweg.tasks: the packages of the extra 'lab' must be installed, got none of scikit-learn, sqlalchemy"
    )
    assert (completed.returncode, completed.stdout, completed.stderr) == (2, "", f"{message}. {INSTALL}\n")
    assert run_without(["sqlalchemy"], tmp_path, "-m", "thalweg", "list", "--help").returncode == 0


CORE = """
import importlib, io, torch, thalweg
from thalweg.errors import MissingPackageError, ThalwegError

def refused(action, who):
    try:
        action()
    except MissingPackageError as error:
        assert isinstance(error, ImportError) and isinstance(error, ThalwegError) and error.name == "click", error
        assert str(error).startswith(who + ": ") and str(error).endswith("pip install 'thalweg[lab]'"), error
    else:
        raise AssertionError(who)

for name in ("Task", "Splits", "supervised", "tasks"):
    refused(lambda: getattr(thalweg, name), "thalweg.tasks")
for name in ("compare", "compare_suite", "Comparison", "Contender", "Suite"):
    refused(lambda: getattr(thalweg, name), "thalweg.comparison")
for module in ("comparison", "comparison.results.store", "report", "report.page", "tasks", "tasks.digits"):
    refused(lambda: importlib.import_module(f"thalweg.{module}"), "thalweg." + module.split(".")[0])
assert dir(thalweg) == ["ThalwegError", "__version__", "optim", "rules", "watch"]
assert all(hasattr(thalweg, name) for name in dir(thalweg))

import thalweg.bench, thalweg.testing, thalweg.diagnosis.monitoring
from thalweg import optim

for name in ("adamw", "muon"):
    model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
    optimizer = optim.route(model, name, lr=0.01).optimizer()

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3, 2)).square().sum()
        loss.backward()
        return loss

    with thalweg.watch(model, optimizer, every=1) as monitor:
        for _ in range(3):
            monitor.step(optimizer.step(closure))
    assert len(monitor.record.losses) == 3 and "3 steps" in monitor.summary()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    optimizer.prepare()
    optimizer.step(closure)
print("done")
"""


def test_the_core_needs_torch_alone_and_the_rest_says_what_is_missing(tmp_path: Path) -> None:
    completed = run_without(list(LAB), tmp_path, "-c", CORE)
    assert completed.stdout == "done\n", completed.stderr


def test_a_package_that_is_there_is_not_missing() -> None:
    assert missing_packages() == []
    require_lab("thalweg")


def test_the_error_names_the_packages_as_pip_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # so that its import fails
    with pytest.raises(
        MissingPackageError, match=rf"^here: .* got none of scikit-learn\. {INSTALL.replace('[', '.')}$"
    ) as caught:
        require_lab("here", ["numpy", "sklearn"])
    assert caught.value.name == "sklearn"
