"""The order, the signs and the words of the table: the same on terminal and page, also after an interruption."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import thalweg
from cases.comparison_records import PLAN
from cases.training_functions import minimized
from thalweg.comparison import Comparison
from thalweg.comparison.presentation.overview import notes_of, table_of
from thalweg.comparison.results.terms import HEADINGS


def train(make_optimizer, report) -> None:
    """A training function without a cost."""
    report(minimized(make_optimizer) + 0.01 + 0.01 * torch.rand(()).item())


@pytest.fixture
def comparison() -> Comparison:
    return thalweg.compare(train, ["sgd", "adam", "lion"], budget="4trials", workers=1, quiet=True)


def with_rival(comparison: Comparison, worse_by: float) -> tuple[str, str, Comparison]:
    """Return the leader, a contender whose difference from it is set, and the comparison with it."""
    leader, rival, *rest = comparison.contenders
    text = comparison.plan.scale.worse_by_in_words(worse_by)
    changed = replace(rival, worse_by=worse_by, worse_by_text=text)
    comparison.__dict__["contenders"] = [leader, changed, *rest]
    return leader.name, rival.name, comparison


@pytest.mark.parametrize(
    ("worse_by", "cell"), [(0.031, "3.1 %"), (-0.02, "2.0 % better"), (-1e-9, "0.0 %"), (12.0, "13x"), (0.0, "0.0 %")]
)
def test_a_row_that_is_better_than_the_leader_says_better(
    comparison: Comparison, worse_by: float, cell: str, tmp_path: Path
) -> None:
    leader, rival, changed = with_rival(comparison, worse_by)
    column = next(column for column in table_of(changed).columns if column.heading == HEADINGS.worse_by)
    assert column.cells[:2] == ["–", cell]
    notes = [note for note in notes_of(changed) if "without a race" in note]
    sentence = (
        f"{rival} has a better value than {leader} on these seeds, without a race. "
        f"The reported value puts {leader} first."
    )
    assert notes == ([sentence] if "better" in cell else [])
    assert (sentence in " ".join(repr(changed).split())) == ("better" in cell)
    page = changed.report(tmp_path / "report.html").read_text()
    assert f">{cell}</td>" in page


def test_terminal_and_page_have_the_same_headings(comparison: Comparison, tmp_path: Path) -> None:
    page = comparison.report(tmp_path / "report.html").read_text()
    table = page.split("<caption>Results of the contenders")[1].split("</thead>")[0]
    on_page = set(re.findall(r'columnheader">([^<]+)</th>', table))
    shared = {column.heading for column in table_of(comparison).columns} & set(HEADINGS)
    assert shared - on_page == {HEADINGS.seeds, HEADINGS.settings} & shared  # in the cells of the page


def test_an_interrupted_comparison_blames_no_budget(comparison: Comparison, tmp_path: Path) -> None:
    finished, race = comparison.verdict.text, comparison.report(tmp_path / "done.html").read_text()
    assert "the budget did not suffice" in finished
    assert "There was no race: the budget did not pay for it." in race
    stopped = Comparison(comparison.store, replace(comparison.record, finished=None))
    assert "It has not been raced against" in stopped.verdict.text
    assert stopped.verdict.ranking_text == "Optimizers are not ranked."
    page = stopped.report(tmp_path / "stopped.html").read_text()
    assert "There has been no race yet." in page
    assert "the budget did not" not in page + stopped.verdict.text


def test_the_page_names_each_part_of_the_procedure_once(tmp_path: Path) -> None:
    adaptive = thalweg.compare(train, ["sgd"], budget="3trials", workers=1, quiet=True)
    ranked = Comparison(adaptive.store, adaptive.record)  # with studies that rank before it, as a long time pays for
    ranked.record = replace(ranked.record, plan=replace(ranked.plan, ranking=PLAN.studies))
    ranked.__dict__["findings"] = adaptive.findings
    for number, result in enumerate((adaptive, ranked)):
        page = result.report(tmp_path / f"{number}.html").read_text()
        parts = re.findall(r"<dt>([^<]+)</dt>", page.split("How this was measured")[1].split("</dl>")[0])
        assert {"search", "choice", "race"} <= set(parts)
        assert ("studies" in parts) == (result is ranked)
        assert len(parts) == len(set(parts))
