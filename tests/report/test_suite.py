"""The page of a suite: one self-contained file, in the style of the other pages, with links to its tasks' pages."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import thalweg
from tests.pages import Reader, assert_opens_cleanly, needs_browser, without_scripts
from thalweg.comparison.results.terms import worse
from thalweg.errors import StoreError, TaskError
from thalweg.report import render, render_suite


def task(name: str, curvature: float) -> thalweg.tasks.TrainingFunction:
    """A task that takes no time. One training in three is lost at random."""

    def train(make_optimizer, report):
        weight = nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([weight])
        for _ in range(6):
            optimizer.zero_grad()
            loss = (weight * torch.tensor([1.0, curvature])).square().sum()
            loss.backward()
            optimizer.step()
        luck = torch.rand(()).item()
        report(math.nan if luck < 1 / 3 else 0.1 + loss.item() + 0.1 * luck)

    return thalweg.tasks.TrainingFunction(train=train, name=name, source=f"{name} {curvature}")


@pytest.fixture(scope="module")
def suite() -> thalweg.Suite:
    names = ["momentum", "rmsprop", "adam", "sgd:lr=1e-9"]
    tasks = [task("a bowl", 1.0), task('<u>&"evil"', 5.0)]
    finished = thalweg.compare_suite(tasks, names, budget="26trials", workers=1)  # 104 trainings: with a race
    return thalweg.Suite(finished.comparisons, {"<i>lost</i>": TaskError("the <script> is gone")})


def test_the_page_shows_matrix_means_profiles_and_what_failed(suite: thalweg.Suite) -> None:
    page = render_suite(suite)
    text = re.sub(r"\s+", " ", Reader(page.replace("<", " <")).text)
    assert suite.text in text
    assert "They do not cover other tasks" in text
    assert suite.headline in text
    assert suite.how_sure in text
    for task, standings in suite.matrix.items():
        assert suite.comparisons[task].verdict.headline in text
        for standing in standings.values():
            assert " ".join([standing.text, *standing.remarks]) in text
    assert suite.aggregate is not None
    for ratio in suite.aggregate.ratio.values():
        if math.isfinite(ratio.low):
            assert f"{worse(ratio.low - 1)} – {worse(ratio.high - 1)}" in text
    assert sum(math.isfinite(ratio.low) for ratio in suite.aggregate.ratio.values()) >= 2
    for comparison in suite.comparisons.values():
        assert comparison.verdict.text in text
    assert any(standing.lost for standings in suite.matrix.values() for standing in standings.values())
    assert "<i>lost</i> failed: the <script> is gone" in text
    assert page.count("<script>") == 3  # two libraries and ours
    assert "<u>" not in page
    assert not re.findall(r"https?:|//[a-z]", without_scripts(page))


def test_its_style_is_that_of_the_other_pages(suite: thalweg.Suite) -> None:
    styles = [
        re.findall(r"<style>.*?</style>", page, flags=re.DOTALL)
        for page in (render_suite(suite), render(next(iter(suite.comparisons.values()))))
    ]
    assert styles[0] == styles[1]
    assert len(styles[0]) == 1


def test_links_lead_to_the_pages_of_the_tasks(suite: thalweg.Suite, tmp_path: Path) -> None:
    page = suite.report(tmp_path / "out")
    assert page == tmp_path / "out" / "suite.html"
    addresses = {attributes["href"] for tag, attributes in Reader(page.read_text()).tags if tag == "a"}
    links = {address for address in addresses if not address.startswith("#")}
    assert len(links) == 2
    for link in links:
        assert "Which setting to use" in (page.parent / link).read_text()
    again = suite.report(tmp_path / "again")
    assert again.read_text() == page.read_text()


def test_a_suite_without_an_overall_result_has_a_page(suite: thalweg.Suite, tmp_path: Path) -> None:
    def report_the_same(make_optimizer, report):
        make_optimizer([nn.Parameter(torch.ones(1))])
        report(-1.0)

    without_ratio = thalweg.compare_suite([report_the_same], ["sgd"], budget="1trial", workers=1)
    text = Reader(without_ratio.report(tmp_path).read_text()).text
    assert "No overall result." in text
    assert "so there is no gain to take a share of" in text


def test_a_page_that_cannot_be_written_raises(suite: thalweg.Suite, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="the report must be writable"):
        suite.report(tmp_path / "file")


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (390, "dark")])
def test_the_page_opens_in_a_browser_without_messages_or_requests(
    suite: thalweg.Suite, tmp_path: Path, width: int, scheme: str
) -> None:
    assert_opens_cleanly(suite.report(tmp_path), width, scheme, charts=3)
