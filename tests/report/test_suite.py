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
from thalweg.report.charts.static import static_chart
from thalweg.report.charts.suite import matrix_chart


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


def test_the_chart_of_the_tasks_shows_the_ratios_and_marks_who_has_no_value(measured_suite: thalweg.Suite) -> None:
    names = measured_suite.contenders
    chart = matrix_chart(measured_suite.matrix, dict(zip(names, (4, 5, 6), strict=True)))
    assert chart is not None
    (view,) = chart.views
    assert view.rows == ["clear", "un<i>decided", "with losses"]
    assert [(line.name, line.colour) for line in view.series] == list(zip(names, (4, 5, 6), strict=True))
    for line in view.series:
        for point, row in zip(line.points, measured_suite.matrix.values(), strict=True):
            standing = row[line.name]
            assert (point.mark == "lost") == (not standing.has_value)
            assert math.isnan(point.y) if point.mark else point.y == standing.ratio
    assert measured_suite.matrix["with losses"]["rmsprop"].text == "lost"
    assert "with losses: adam 1, " in view.alt
    assert "rmsprop no value" in view.alt
    assert "A cross is a contender without a value" in chart.note
    assert "<use" in static_chart(chart)
    alone = {task: {"adam": row["adam"]} for task, row in measured_suite.matrix.items()}
    assert matrix_chart(alone, {"adam": 0}) is None


def test_headline_and_table_agree_where_a_task_is_clear_one_is_undecided_and_one_failed(
    measured_suite: thalweg.Suite, suite_page: Path
) -> None:
    clear, undecided, losses = (measured_suite.matrix[task] for task in measured_suite.comparisons)
    assert [row["adam"].text for row in (clear, losses)] == ["best", "best"]
    assert not any(clear[name].tied for name in ("momentum", "rmsprop"))
    assert sum(standing.tied for standing in undecided.values()) > 1
    assert losses["momentum"].failed_trainings > 0
    assert measured_suite.headline == "Nearest to the best: adam."
    assert measured_suite.how_sure == (
        "Of 4 tasks, adam is shown to be the best on 2 and not told apart from the best on 1; 1 failed."
    )
    text = re.sub(r"\s+", " ", Reader(suite_page.read_text().replace("<", " <")).text)
    for part in (measured_suite.headline, measured_suite.how_sure, "<i>gone</i> failed: the <script> is gone"):
        assert part in text
    assert f"{losses['momentum'].failed_trainings} of {losses['momentum'].trainings} failed" in text
    assert "momentum failed: ValueError: the disk is gone" in text


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
