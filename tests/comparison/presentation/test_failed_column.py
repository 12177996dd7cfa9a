"""Failed trainings beside lost ones: a training that raises an error has a column and words of its own."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison import Comparison
from thalweg.comparison.presentation.overview import notes_of, table_of
from thalweg.comparison.results.estimate import Estimate

ERROR = "KeyError: 'no such column'"


def train(make_optimizer, report) -> None:
    """A training function that raises with Adam, and diverges with large learning rates."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    if "Adam" in type(optimizer).__name__:
        raise KeyError("no such column")
    for _ in range(2):
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        optimizer.step()
    report(loss.item() + 0.01 * torch.rand(()).item())


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return thalweg.compare(train, ["sgd", "adam"], budget="6trials", workers=1, quiet=True)


def test_the_table_counts_failed_trainings_apart_from_lost_seeds(comparison: Comparison) -> None:
    cells = {
        column.heading: dict(zip(["sgd", "adam"], column.cells, strict=True)) for column in table_of(comparison).columns
    }
    failed = sum(trial.result.status == "failed" for trial in comparison.trainings)
    assert failed > 0
    assert cells["failed"]["adam"] == f"{failed}/{failed}"
    assert cells["failed"]["sgd"].startswith("0/")
    assert cells["lost"]["adam"].startswith("0/")
    assert cells["worse by"]["adam"] == "–"  # it has no value
    assert any(note.startswith("Failed: trainings that raised an error") for note in notes_of(comparison))
    assert not any("ended no better" in caution for caution in comparison.cautions)


def test_json_and_page_have_count_error_and_line(comparison: Comparison, tmp_path: Path) -> None:
    result = comparison.to_json()
    (failure,) = result["failures"]
    line = next(number for number, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "raise Key" in text)
    assert failure["error"].startswith(ERROR)
    assert f"{__file__}:{line}" in failure["error"]
    by_name = {contender["name"]: contender for contender in result["contenders"]}
    assert by_name["adam"]["failed_trainings"] == failure["count"]
    assert by_name["sgd"]["failed_trainings"] == 0
    page = comparison.report(tmp_path / "report.html").read_text()
    assert f'data-label="failed" data-value="{failure["count"]}"' in page
    assert "Failed trainings</h2>" in page
    assert f":{line})" in page


def test_without_failed_trainings_there_is_no_column() -> None:
    alone = thalweg.compare(train, ["sgd"], budget="3trials", workers=1, quiet=True)
    assert "failed" not in [column.heading for column in table_of(alone).columns]


@pytest.mark.parametrize(
    ("lost", "failed", "words"),
    [(2, 0, "2 of them lost"), (2, 2, "2 of them failed"), (3, 1, "2 of them lost, 1 failed")],
)
def test_what_was_lost_is_told_from_what_failed(lost: int, failed: int, words: str) -> None:
    assert Estimate(1.0, 0.9, math.inf, 5, lost=lost, failed=failed).lost_in_words == words
