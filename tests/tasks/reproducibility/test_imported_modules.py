"""The user's modules beside a training function are part of its fingerprint; other files are not."""

from pathlib import Path

from thalweg.comparison.training.task_fingerprint import fingerprint_of_function
from thalweg.tasks import load
from thalweg.tasks.reproducibility.imported_modules import imported_texts
from thalweg.tasks.training_function import TrainingFunction

TRAIN = """
import torch
from nets_of_this_test.layers import make

def train(make_optimizer, report):
    make_optimizer(make())
    report(1.0)

def alone(make_optimizer, report):
    report(1.0)
"""


def folder_of(tmp_path: Path) -> Path:
    """Write a file that imports a package beside it, whose module imports another one."""
    package = tmp_path / "nets_of_this_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "layers.py").write_text("from . import sizes\n\ndef make():\n    return sizes.WIDTH\n")
    (package / "sizes.py").write_text("WIDTH = 3\n")
    (package / "unused.py").write_text("WIDTH = 4\n")
    (tmp_path / "mine.py").write_text(TRAIN)
    return tmp_path


def test_imported_modules_of_the_folder_count_and_an_edit_of_one_is_another_function(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    function = load(f"{folder / 'mine.py'}:train")
    assert isinstance(function, TrainingFunction)
    texts = imported_texts(function.train)
    assert list(texts) == ["nets_of_this_test/layers.py", "nets_of_this_test/sizes.py"]
    before = fingerprint_of_function(function)
    (folder / "nets_of_this_test" / "unused.py").write_text("WIDTH = 5\n")
    assert fingerprint_of_function(function) == before
    (folder / "nets_of_this_test" / "sizes.py").write_text("WIDTH = 5\n")
    assert fingerprint_of_function(function) != before


def test_installed_modules_and_functions_without_a_file_have_none(tmp_path: Path) -> None:
    installed = tmp_path / "site-packages"
    installed.mkdir()
    function = load(f"{folder_of(installed) / 'mine.py'}:train")
    assert isinstance(function, TrainingFunction)
    assert imported_texts(function.train) == {}
    namespace: dict[str, object] = {}
    exec("def train(make_optimizer, report): ...", namespace)
    assert imported_texts(namespace["train"]) == {}  # type: ignore[arg-type]
    assert imported_texts(print) == {}
