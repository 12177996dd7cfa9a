"""The page of a suite as an instrument: each control is used in Chromium."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import thalweg
from tests.pages import chart, drawn, needs_browser, open_silent_tab, open_tab
from thalweg.report.numbers import format_number

pytestmark = needs_browser
CHARTS = ("matrix", "means", "profiles")


@pytest.fixture
def tab(browser: Any, suite_page: Path) -> Iterator[Any]:
    """The open page. It must neither write a message nor ask anything of anyone."""
    with open_silent_tab(browser, suite_page) as tab:
        yield tab


def matrix(tab: Any) -> Any:
    return tab.get_by_role("table", name="How much worse than the best of each task")


def tasks_in(tab: Any) -> list[str]:
    return matrix(tab).locator("tbody th a").all_inner_texts()


def test_a_hidden_contender_leaves_charts_and_columns_and_comes_back(tab: Any) -> None:
    names = {"adam", "momentum", "rmsprop"}
    assert all(drawn(chart(tab, each)) == names for each in CHARTS)
    cells = matrix(tab).locator('[data-contender="momentum"]')
    assert cells.count() == 4  # the heading and three tasks
    tab.locator('.contenders button[data-name="momentum"]').first.click()
    assert all(drawn(chart(tab, each)) == names - {"momentum"} for each in CHARTS)
    assert not any(cell.is_visible() for cell in cells.all())
    row = tab.locator('tr[data-contender="momentum"]')
    assert "hidden-contender" in row.get_attribute("class")
    assert tab.locator("#announcements").inner_text() == "momentum is hidden"
    tab.get_by_role("button", name="Show all").first.click()
    assert all(drawn(chart(tab, each)) == names for each in CHARTS)
    assert all(cell.is_visible() for cell in cells.all())


def test_the_tasks_are_sorted_by_any_column(tab: Any, measured_suite: thalweg.Suite) -> None:
    order = tasks_in(tab)
    assert order == list(measured_suite.comparisons)
    heading = matrix(tab).locator("thead th", has_text="momentum")
    by_ratio = sorted(order, key=lambda task: measured_suite.matrix[task]["momentum"].ratio)
    for direction, expected in (("ascending", by_ratio), ("descending", by_ratio[::-1])):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == direction
        assert tasks_in(tab) == expected
    # A contender without a value on a task comes last either way.
    for _ in range(2):
        matrix(tab).locator("thead th", has_text="rmsprop").get_by_role("button").click()
        assert tasks_in(tab)[-1] == "with losses"
    tab.set_viewport_size({"width": 360, "height": 800})
    select = tab.get_by_label("Sort the table by").first
    select.select_option(label="momentum, largest first")
    assert tasks_in(tab) == by_ratio[::-1]
    select.select_option(label="the order of the report")
    assert tasks_in(tab) == order


def test_the_scale_can_be_chosen(tab: Any) -> None:
    figure = chart(tab, "matrix")
    places = "all => all.map(each => each.getAttribute('transform')).join()"
    before = figure.locator(".series *").evaluate_all(places)
    other = (
        "linear"
        if figure.get_by_role("button", name="log", exact=True).get_attribute("aria-pressed") == "true"
        else "log"
    )
    figure.get_by_role("button", name=other, exact=True).click()
    assert figure.get_by_role("button", name=other, exact=True).get_attribute("aria-pressed") == "true"
    assert figure.locator(".series *").evaluate_all(places) != before


def test_pointer_and_arrow_keys_read_the_values_of_a_task(tab: Any, measured_suite: thalweg.Suite) -> None:
    figure = chart(tab, "matrix")
    figure.locator(".plot").focus()
    tab.keyboard.press("ArrowDown")
    tip = figure.locator(".tip")
    text = tip.inner_text()
    assert text.startswith("clear, ratio to the best")
    for name, standing in measured_suite.matrix["clear"].items():
        assert f"{name}: {format_number(standing.ratio, 4)}" in text
    assert tab.locator("#announcements").inner_text().startswith("clear, ")
    lit = tab.evaluate("page.lit")
    assert set(chart(tab, "profiles").locator(".series.dim").evaluate_all("all => all.map(e => e.dataset.name)")) == (
        {"adam", "momentum", "rmsprop"} - {lit}
    )
    assert matrix(tab).locator("th.lit").inner_text().startswith(lit)
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    assert "rmsprop: no finite value" in tip.inner_text()
    tab.keyboard.press("Escape")
    assert not tip.is_visible()
    box = figure.locator(".plot svg").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    assert tip.inner_text().startswith("clear, ")
    for name in ("means", "profiles"):
        chart(tab, name).locator(".plot").focus()
        tab.keyboard.press("ArrowRight")
        assert re.search(r"\d", chart(tab, name).locator(".tip").inner_text())


def test_a_heading_highlights_its_contender_on_the_charts(tab: Any) -> None:
    matrix(tab).locator('th[data-contender="momentum"]').hover()
    for name in CHARTS:
        dim = chart(tab, name).locator(".series.dim").evaluate_all("all => all.map(e => e.dataset.name)")
        assert set(dim) == {"adam", "rmsprop"}


def test_all_numbers_of_all_tasks_can_be_saved(tab: Any, measured_suite: thalweg.Suite) -> None:
    with tab.expect_download() as download:
        tab.get_by_role("button", name="All trainings as CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert next(iter(rows[0])) == "task"
    for task, comparison in measured_suite.comparisons.items():
        own = [row for row in rows if row["task"] == task]
        assert len(own) == len(comparison.trainings)
        assert [row["seed"] for row in own] == [str(trial.seed) for trial in comparison.trainings]
        assert [row["status"] for row in own] == [trial.result.status for trial in comparison.trainings]
    assert {"failed", "ok"} <= {row["status"] for row in rows}
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Everything as JSON").click()
    raw = json.loads(Path(download.value.path()).read_text())
    assert raw["results"] == measured_suite.to_json()
    assert len(raw["rows"]) == len(rows)


@pytest.mark.parametrize("name", CHARTS)
def test_each_chart_can_be_saved_as_an_image(tab: Any, name: str) -> None:
    figure = chart(tab, name)
    with tab.expect_download() as download:
        figure.get_by_role("button", name="as SVG").click()
    assert download.value.suggested_filename == f"thalweg-{name}.svg"
    assert "momentum" in Path(download.value.path()).read_text()
    with tab.expect_download() as download:
        figure.get_by_role("button", name="as PNG").click()
    assert Path(download.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_line_of_each_task_is_copied_and_links_work(tab: Any, measured_suite: thalweg.Suite) -> None:
    lines = [comparison.code for comparison in measured_suite.comparisons.values()]
    assert len(lines) == 3
    for line in lines:
        tab.get_by_role("button", name="Copy").first.click()
        assert tab.evaluate("getSelection().toString()").strip() == line.strip()
    for link in tab.get_by_role("navigation").get_by_role("link").all():
        target = link.get_attribute("href")
        assert tab.locator(f"h2{target}").count() == 1
        link.click()
    tab.get_by_text("What the cells mean").click()
    assert tab.get_by_text("Trainings that raised an error").is_visible()
    tab.evaluate("document.activeElement.blur()")


def test_theme_and_paper(tab: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground)
    tab.get_by_label("Theme").select_option("dark")
    assert tab.evaluate(ground) != light
    tab.emulate_media(media="print")
    assert not any(button.is_visible() for button in tab.locator(".tools, .copy, .theme, nav").all())
    assert not tab.get_by_role("button", name="Show all").first.is_visible()
    assert tab.locator(".contenders .swatch").first.is_visible()  # the legend
    assert tab.evaluate(ground) == "rgb(251, 250, 247)"
    assert chart(tab, "matrix").locator("svg").is_visible()
    assert matrix(tab).is_visible()


def test_without_scripts_there_are_headline_table_and_charts(
    browser: Any, suite_page: Path, measured_suite: thalweg.Suite
) -> None:
    tab = open_tab(browser, viewport={"width": 360, "height": 800}, java_script_enabled=False)
    tab.goto(suite_page.as_uri())
    assert tab.locator("h1").inner_text() == measured_suite.headline
    assert matrix(tab).is_visible()
    charts = tab.locator(".static svg")
    assert charts.count() == len(CHARTS)
    assert all(re.search(r"adam \d", each.get_attribute("aria-label")) for each in charts.all())
    assert not any(button.is_visible() for button in tab.locator("button, select").all())
    tab.close()
