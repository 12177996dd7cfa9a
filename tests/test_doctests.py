"""The examples in docstrings run and print what they show."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import thalweg

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(thalweg.__path__, "thalweg.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some examples write a file
    results = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )
    assert results.failed == 0


def test_the_public_modules_have_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    public = (
        "thalweg.comparison.comparison",
        "thalweg.comparison.finished",
        "thalweg.tasks.task",
        "thalweg.testing.conformance",
        "thalweg.optim.transfer",
    )
    for name in public:
        assert any(test.examples for test in finder.find(importlib.import_module(name))), f"{name} has no example"
