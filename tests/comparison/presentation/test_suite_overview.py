"""A suite is described alike in Python, in a notebook and on a terminal, with every name as text."""

import html

import pytest
import torch
from torch import nn

import thalweg
from thalweg.cli.commands.suite import print_suite
from thalweg.comparison import Suite
from thalweg.comparison.presentation.suite_overview import sentences_of
from thalweg.comparison.results.terms import worse
from thalweg.errors import TaskError


def bowl(name: str, offset: float) -> thalweg.tasks.TrainingFunction:
    def train(make_optimizer, report):
        weight = nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([weight])
        for _ in range(4):
            optimizer.zero_grad()
            weight.square().sum().backward()
            optimizer.step()
        report(offset + weight.square().sum().item() + 0.01 * torch.rand(()).item())

    return thalweg.tasks.TrainingFunction(train=train, name=name, source=f"{name} {offset}")


def broken(make_optimizer, report):
    raise ValueError("the disk is <gone>")


@pytest.fixture(scope="module")
def suite() -> Suite:
    tasks = [bowl("<b>round", 1.0), bowl("high", 4.0), broken]
    return thalweg.compare_suite(tasks, ["adam", "sgd:lr=1e-9"], budget="4trials", workers=1, quiet=True)


def test_a_suite_is_described_in_text(suite: Suite) -> None:
    lines = repr(suite).splitlines()
    assert lines[:2] == ["Suite of 3 tasks: 2 contenders", suite.headline]
    cells = [suite.matrix["high"][name].cell for name in suite.contenders]
    verdict = suite.comparisons["high"].verdict.headline
    assert (
        next(line for line in lines if line.startswith("high ")).split() == f"high {' '.join(cells)} {verdict}".split()
    )
    assert suite.aggregate is not None
    for name, ratio in suite.aggregate.ratio.items():
        assert any(line.startswith(name) and worse(ratio.mean - 1) in line for line in lines)
    in_one_line = " ".join(repr(suite).split())
    for sentence in (suite.text, suite.how_sure, str(suite.failures["broken"]), *suite.cautions):
        assert " ".join(sentence.split()) in in_one_line
    described = repr(suite).split("\n# ")[0]
    assert max(map(len, described.splitlines())) <= 120
    codes = [f"# {task}\n{comparison.code}" for task, comparison in suite.comparisons.items()]
    assert len(codes) == 2
    assert repr(suite).endswith("\n\n".join(codes))


def test_a_notebook_shows_tables_with_names_as_text(suite: Suite) -> None:
    page = suite._repr_html_()
    assert page.count("<table>") == 2
    assert "<b>round" not in page
    assert "&lt;b&gt;round" in page
    assert "the disk is &lt;gone&gt;" in page
    assert f"<b>{suite.headline}</b>" in page
    assert page.endswith(f"{html.escape(suite.comparisons['high'].code)}</pre>")
    assert page.count("<td") == 2 * (1 + 2 + 1) + 2 * 3  # two tasks, two contenders


def test_the_terminal_shows_the_same_tables(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    print_suite(suite)
    printed = " ".join(capsys.readouterr().out.split())
    described = repr(suite).split("\n\n", 1)[1]
    assert printed == " ".join(described.split())


def test_a_suite_without_results_names_its_errors(capsys: pytest.CaptureFixture[str]) -> None:
    suite = Suite({}, {"a": TaskError("a: gone")}, ["b"])
    assert repr(suite).splitlines()[0] == "Suite of 2 tasks: 0 contenders"
    assert "a failed: a: gone" in repr(suite)
    assert "<table>" not in suite._repr_html_()
    print_suite(suite)
    assert capsys.readouterr().out == "\n".join([*sentences_of(suite), ""])  # and no empty table
