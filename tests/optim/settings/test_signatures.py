"""Signatures and docstrings of optimizers: those of type checkers, of editors and of `help` are the same."""

import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import thalweg
from thalweg import optim, rules
from thalweg.optim import stubs
from thalweg.optim.optimizer import RuleOptimizer

ROOT = Path(__file__).parents[3]
USER_CODE = Path(__file__).with_name("user_code.py")
OPTIMIZERS = [
    value
    for value in {id(getattr(optim, name)): getattr(optim, name) for name in optim.__all__}.values()
    if inspect.isclass(value) and issubclass(value, RuleOptimizer) and value is not RuleOptimizer
]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="the stub has the keywords of torch.optim.Muon (2.9)")
def test_the_stub_is_the_one_that_is_generated() -> None:
    assert Path(optim.__file__).with_name("__init__.pyi") == stubs.PATH
    assert stubs.PATH.read_text(encoding="utf-8") == stubs.text(), "run: python -m thalweg.optim.stubs"


def test_type_information_is_shipped() -> None:
    assert Path(thalweg.__file__).with_name("py.typed").exists()


def test_the_code_of_a_user_is_checked() -> None:
    expected = {
        (number, code)
        for number, line in enumerate(USER_CODE.read_text().splitlines(), start=1)
        for code in re.findall(r"# error: ([\w-]+)$", line)
    }
    # With the configuration of `make check`, whose cache then serves this, too; it is strict.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", str(USER_CODE)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not printed.stderr, printed.stderr
    errors = re.findall(r"user_code\.py:(\d+): error: .*\[([\w-]+)\]", printed.stdout)
    assert {(int(number), code) for number, code in errors} == expected, printed.stdout
    assert len(expected) > 15
    assert all("user_code.py" in line for line in printed.stdout.splitlines()), printed.stdout


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_each_keyword_is_documented_with_the_bound_that_is_checked(kind: type[RuleOptimizer]) -> None:
    documented = dict(re.findall(r"^    (\w+): ((?:.|\n        )+)$", kind.__doc__ or "", flags=re.MULTILINE))
    parameters = inspect.signature(kind).parameters
    assert list(parameters) == [name for name in documented if name in parameters]
    for name, declared in kind.rule.hypers().items():
        text = " ".join(documented[declared.keyword or name].split())
        assert declared.bound is None or str(declared.bound) in text
        assert declared.unit in ("", "1") or f" {declared.unit}" in text
        assert declared.symbol in text


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_the_example_of_each_optimizer_runs(kind: type[RuleOptimizer]) -> None:
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (example,) = finder.find(kind, kind.__name__, globs={})
    assert f"optim.{kind.__name__}(" in example.docstring
    assert any(".step(" in line.source for line in example.examples)
    assert runner.run(example).failed == 0


def test_a_nest_shows_its_settings_too() -> None:
    nest = optim.optimizer_for(rules.Cautious(rules.AdamW(lr=3e-4)))
    assert inspect.signature(nest).parameters["lr"].default == 3e-4
    assert 'optim.optimizer_for("cautious(adamw)")(model.parameters(), lr=0.0003)' in (nest.__doc__ or "")
