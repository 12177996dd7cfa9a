"""The page as an instrument: each control is used in Chromium, in both themes, from a phone to a wide screen."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cases import diagnoses
from tests.pages import chart, drawn, needs_browser, open_silent_tab, open_tab
from thalweg.comparison import Comparison
from thalweg.report import render_diagnosis
from thalweg.report.numbers import format_number
from thalweg.report.pictures import render_picture
from thalweg.trajectories import trace

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
WIDTHS = (360, 768, 1280, 1920)
pytestmark = needs_browser


@pytest.fixture
def tab(browser: Any, measured_page: Path) -> Iterator[Any]:
    """The open page. It must neither write a message nor ask anything of anyone."""
    with open_silent_tab(browser, measured_page) as tab:
        yield tab


def names_in_table(tab: Any) -> list[str]:
    rows = tab.locator("table").first.locator("tbody tr")
    return rows.evaluate_all("rows => rows.map(row => row.dataset.contender)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["measured_page", "suite_page"])
def test_no_fault_of_accessibility_and_nothing_clipped_at_any_width(
    browser: Any, page: str, scheme: str, request: pytest.FixtureRequest
) -> None:
    tab = open_tab(browser, viewport={"width": WIDTHS[0], "height": 900}, color_scheme=scheme)
    tab.goto(request.getfixturevalue(page).as_uri())
    tab.evaluate(AXE.read_text())
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        tab.wait_for_function(
            "[...document.querySelectorAll('.plot')].every(e => e.firstChild.clientWidth <= e.clientWidth + 1)"
        )
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        clipped = """[...document.querySelectorAll('th, td, button, h1, h2, h3, p, dd, figure, svg text')]
            .filter(e => !e.closest('thead, .sr, .tip') && e.getBoundingClientRect().right > innerWidth + 0.5)
            .map(e => e.outerHTML.slice(0, 200))"""
        assert tab.evaluate(clipped) == []
        small = """[...document.querySelectorAll('svg text')].filter(
            e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a < 11).length"""
        assert tab.evaluate(small) == 0
        if width in (360, 1280):
            tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        found = tab.evaluate("axe.run({resultTypes: ['violations']})")
        serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
        assert [(each["id"], each["nodes"][0]["html"][:300]) for each in serious] == []
        assert len(found["passes"]) > 20
    tab.close()


def test_the_page_of_a_diagnosis_shares_its_form(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "doctor.html"
    path.write_text(render_diagnosis(diagnoses.vanishing(), command="thalweg doctor mine.py:training"))
    tab = open_tab(browser, viewport={"width": 360, "height": 900}, color_scheme="dark")
    tab.goto(path.as_uri())
    tab.evaluate(AXE.read_text())
    found = tab.evaluate("axe.run({resultTypes: ['violations']})")
    assert [each["id"] for each in found["violations"] if each["impact"] in ("serious", "critical")] == []
    with tab.expect_download() as download:
        tab.locator("figure").first.get_by_role("button", name="as SVG").click()
    assert Path(download.value.path()).read_text().startswith("<svg")
    tab.close()


def test_the_page_of_a_picture_has_no_fault_and_follows_the_theme(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "picture.html"
    starts = [(-1.0, 1.0), (1.0, 1.5)]
    path.write_text(render_picture(trace("rosenbrock", "gd:lr=0.001,adam:lr=0.2", steps=20, start=starts)))
    tab = open_tab(browser, viewport={"width": 390, "height": 900}, color_scheme="light")
    tab.goto(path.as_uri())
    tab.evaluate(AXE.read_text())
    colour = """() => [...document.querySelectorAll('.trail .line')].slice(0, 1).map(e => getComputedStyle(e).stroke)
        .concat(getComputedStyle(document.querySelector('tbody .swatch')).backgroundColor)
        .concat(getComputedStyle(document.querySelector('svg text')).fill)"""
    seen = []
    for theme, width in (("light", 1280), ("dark", 390)):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.get_by_label("Theme").select_option(theme)
        seen.append(tab.evaluate(colour))
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        found = tab.evaluate("axe.run({resultTypes: ['violations']})")
        serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
        assert [(each["id"], each["nodes"][0]["html"][:300]) for each in serious] == []
    assert all(light != dark for light, dark in zip(*seen, strict=True))
    table = tab.get_by_role("table", name="The path of each optimizer, the lowest end first")
    assert table.get_by_role("columnheader").all_inner_texts()[:2] == ["optimizer", "start"]
    assert table.get_by_role("rowheader").count() == 4
    tab.close()


def test_an_eleventh_contender_differs_from_the_first(browser: Any, measured_page: Path, tmp_path: Path) -> None:
    text = measured_page.read_text()
    mark = '<script type="application/json" id="page-data">'
    begin = text.index(mark) + len(mark)
    end = text.index("</script>", begin)
    data = json.loads(text[begin:end])
    views = [view for each_chart in data["charts"] for view in each_chart["views"]]
    for entry in [*data["contenders"], *(line for view in views for line in view["series"])]:
        entry["colour"] += 10
    path = tmp_path / "page.html"
    path.write_text(text[:begin] + json.dumps(data) + text[end:])
    tab = open_tab(browser)
    tab.goto(path.as_uri())
    assert tab.locator(".contenders .swatch.turn-1").count() > 0
    assert tab.locator(".contenders .swatch.turn-0").count() == 0
    curve = chart(tab, data["charts"][1]["id"])
    assert curve.locator('.series[stroke-dasharray="8 4"], .series [stroke-dasharray="8 4"]').count() > 0
    assert chart(tab, "values").locator("circle").count() == 0
    tab.close()


def test_a_hidden_contender_leaves_all_charts_and_comes_back(tab: Any) -> None:
    name = names_in_table(tab)[0]
    chips = tab.locator(f'.contenders button[data-name="{name}"]')
    shown = ["values", "curves-validation", "learning-rates", "budget"]
    assert all(name in drawn(chart(tab, each)) for each in shown)
    chips.first.click()
    for each in shown:
        assert name not in drawn(chart(tab, each))
        assert len(drawn(chart(tab, each))) >= 1
    assert set(chips.evaluate_all("all => all.map(each => each.getAttribute('aria-pressed'))")) == {"false"}
    row = tab.locator(f'table tr[data-contender="{name}"]').first
    assert "hidden-contender" in row.get_attribute("class")
    assert tab.locator("#announcements").inner_text() == f"{name} is hidden"
    tab.get_by_role("button", name="Show all").first.click()
    assert name in drawn(chart(tab, "values"))
    assert "hidden-contender" not in (row.get_attribute("class") or "")


def test_the_table_is_sorted_both_ways_and_dashes_come_last(tab: Any) -> None:
    table = tab.locator("table").first
    order = names_in_table(tab)
    heading = table.locator("th", has_text="training time")
    times = """rows => rows.map(row => Number(row.querySelector('[data-label="training time"]').dataset.value))"""
    for direction, sign in (("ascending", 1), ("descending", -1)):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == direction
        values = [sign * value for value in table.locator("tbody tr").evaluate_all(times)]
        assert values == sorted(values)
        assert len(set(values)) > 1
    # The leader is worse by nothing, and a row without a value comes last either way.
    tab.evaluate("document.querySelector('table tbody tr').cells[2].dataset.value = ''")
    emptied = names_in_table(tab)[0]
    for _ in range(2):
        table.locator("th", has_text="worse by").get_by_role("button").click()
        assert names_in_table(tab)[-1] == emptied
    tab.set_viewport_size({"width": 360, "height": 800})
    select = tab.get_by_label("Sort the table by").first
    select.select_option(label="training time, largest first")
    assert [-value for value in table.locator("tbody tr").evaluate_all(times)] == values
    select.select_option(label="the order of the report")
    assert names_in_table(tab) == order


def test_scale_and_horizontal_axis_can_be_chosen(tab: Any) -> None:
    figure = chart(tab, "curves-validation")
    lines = """all => all.map(each => each.getAttribute('d')).join()"""
    before = figure.locator(".series path").evaluate_all(lines)
    figure.get_by_role("button", name="linear").click()
    linear = figure.locator(".series path").evaluate_all(lines)
    assert figure.get_by_role("button", name="linear").get_attribute("aria-pressed") == "true"
    assert linear != before
    figure.get_by_role("button", name="log", exact=True).click()
    assert figure.locator(".series path").evaluate_all(lines) == before
    assert figure.get_by_text("reports", exact=True).count() == 2  # the button and the axis
    figure.get_by_role("button", name="seconds").click()
    assert figure.get_by_text("training time (s)").count() == 1
    assert figure.get_by_text("reports", exact=True).count() == 1


def test_labels_at_the_ends_are_in_the_order_of_the_table_and_apart(tab: Any) -> None:
    figure = chart(tab, "budget")
    labels = figure.locator(".end text").evaluate_all("all => all.map(each => each.textContent)")
    assert labels == [f"{place} {name}" for place, name in enumerate(names_in_table(tab), 1)]
    places = sorted(figure.locator(".end text").evaluate_all("all => all.map(each => Number(each.getAttribute('y')))"))
    assert all(after - before >= 14 for before, after in pairwise(places))


def test_a_pointer_reads_values_and_highlights_everywhere(tab: Any, measured: Comparison) -> None:
    figure = chart(tab, "learning-rates")
    dot = figure.locator("circle[data-trial], path[data-trial]").first
    trial = int(dot.get_attribute("data-trial"))
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = figure.locator(".tip")
    assert tip.is_visible()
    # Another dot may lie on top: what is shown must be a training of the store.
    shown = re.search(r"learning rate: ([\d.e-]+)", tip.inner_text())
    rates = {format_number(entry.settings["lr"], 4) for entry in measured.trainings if entry.stage == "search"}
    assert shown is not None
    assert shown[1] in rates
    assert 0 <= trial < len(measured.trainings)
    lit = tab.evaluate("page.lit")
    assert lit in names_in_table(tab)
    assert tab.locator("table tr.lit").first.get_attribute("data-contender") == lit
    for each in ("budget", "curves-validation"):
        dim = chart(tab, each).locator(".series.dim").evaluate_all("all => all.map(each => each.dataset.name)")
        assert dim
        assert lit not in dim
    tab.mouse.move(2, 2)
    assert not tip.is_visible()
    assert tab.locator(".dim").count() == 0


def test_a_row_highlights_its_contender_on_the_charts(tab: Any) -> None:
    name = names_in_table(tab)[1]
    tab.locator(f'table tr[data-contender="{name}"]').first.hover()
    dim = chart(tab, "values").locator(".series.dim").evaluate_all("all => all.map(each => each.dataset.name)")
    assert set(dim) == set(names_in_table(tab)) - {name}


def test_arrow_keys_read_the_values_of_every_chart(tab: Any) -> None:
    spoken = tab.locator("#announcements")
    for name in ("values", "curves-validation", "learning-rates", "budget", "splits"):
        figure = chart(tab, name)
        figure.locator(".plot").focus()
        texts = []
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft"):
            tab.keyboard.press(key)
            assert figure.locator(".tip").is_visible()
            texts.append(spoken.inner_text())
        assert len(set(texts)) >= 2, (name, texts)
        assert all(re.search(r"\d", text) for text in texts)
        tab.keyboard.press("Escape")
        assert not figure.locator(".tip").is_visible()
        assert figure.locator("svg").get_attribute("aria-label")


def test_the_search_shows_the_settings_of_the_chosen_contender(tab: Any, measured: Comparison) -> None:
    parallel, scatter = chart(tab, "search-parallel"), chart(tab, "search-scatter")
    chooser = tab.get_by_label("Contender whose search is shown")
    for summary in measured.contenders[:2]:
        chooser.select_option(label=summary.name)
        assert parallel.locator("path[data-trial]").count() == len(summary.trials["search"])
        assert scatter.locator("circle[data-trial]").count() == len(summary.trials["search"])
        assert summary.name in parallel.locator("svg").get_attribute("aria-label")
    # The best setting is read first, and is highlighted on both.
    parallel.locator(".plot").focus()
    tab.keyboard.press("ArrowDown")
    best = min(trial.result.validation for trial in summary.trials["search"] if trial.result.status == "ok")
    assert format_number(best, 4) in parallel.locator(".tip").inner_text()
    assert parallel.locator(".lit-trial").count() == 1
    trial = parallel.locator(".lit-trial").get_attribute("data-trial")
    assert scatter.locator(".lit-trial").get_attribute("data-trial") == trial
    assert scatter.locator(".dim").count() == len(summary.trials["search"]) - 1
    tab.keyboard.press("Escape")
    assert tab.locator(".lit-trial").count() == 0
    before = scatter.locator("svg").inner_html()
    tab.get_by_label("vertical axis of the settings").select_option(index=0)
    assert scatter.locator("svg").inner_html() != before
    tab.get_by_label("horizontal axis of the settings").select_option(index=1)
    first, second = scatter.locator("svg > text").evaluate_all("all => all.slice(-2).map(each => each.textContent)")
    assert (first, second) == (summary.searched[1] if len(summary.searched) > 1 else first, "lr")


def test_all_numbers_can_be_saved(tab: Any, measured: Comparison) -> None:
    with tab.expect_download() as download:
        tab.get_by_role("button", name="All trainings as CSV").click()
    assert download.value.suggested_filename == "thalweg-trainings.csv"
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    expected = measured.trials()
    assert len(rows) == len(measured.trainings) == len(expected)
    values = [float(row["validation"]) for row in rows if row["validation"]]
    assert sorted(values) == sorted(v for entry in expected if math.isfinite(v := entry.result.validation))
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Everything as JSON").click()
    raw = json.loads(Path(download.value.path()).read_text())
    assert raw["results"] == measured.to_json()
    assert len(raw["curves"]) == len(rows)
    assert any(len(curve) == 8 and curve[-1][4] >= curve[0][4] >= 0 for curve in raw["curves"])


def test_a_formula_in_a_name_is_no_formula_in_the_file(tab: Any) -> None:
    cells = ["=1+1", "@x", "-a", 'a "b", c', -1.5, None]
    assert tab.evaluate("cells => csvOf({columns: [], rows: [cells]})", cells) == (
        '\r\n\'=1+1,\'@x,\'-a,"a ""b"", c",-1.5,\r\n'
    )


@pytest.mark.parametrize("name", ["curves-validation", "search-parallel"])
def test_a_chart_can_be_saved_as_an_image(tab: Any, name: str) -> None:
    figure = chart(tab, name)
    with tab.expect_download() as download:
        figure.get_by_role("button", name="as SVG").click()
    svg = Path(download.value.path()).read_text()
    assert download.value.suggested_filename == f"thalweg-{name}.svg"
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "var(--" not in re.sub(r'(stroke|fill|data-\w+)="[^"]*"', "", svg)
    assert names_in_table(tab)[0] in svg
    with tab.expect_download() as download:
        figure.get_by_role("button", name="as PNG").click()
    png = Path(download.value.path()).read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(png[16:20], "big") > 800  # pixels across


def test_the_theme_can_be_chosen(tab: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground)
    tab.get_by_label("Theme").select_option("dark")
    dark = tab.evaluate(ground)
    assert dark != light
    tab.emulate_media(color_scheme="dark")
    tab.get_by_label("Theme").select_option("light")
    assert tab.evaluate(ground) == light
    tab.get_by_label("Theme").select_option("auto")
    assert tab.evaluate(ground) == dark


def test_the_line_to_paste_is_copied(tab: Any, measured: Comparison) -> None:
    tab.get_by_role("button", name="Copy").first.click()
    tab.get_by_role("button", name="Copied").wait_for()
    assert tab.evaluate("getSelection().toString()").strip() == measured.code.strip()


def test_links_and_details_work(tab: Any) -> None:
    for link in tab.get_by_role("navigation").get_by_role("link").all():
        target = link.get_attribute("href")
        assert tab.locator(f"h2{target}").count() == 1
        link.click()
    tab.get_by_text("What the columns mean").click()
    assert tab.get_by_text("untuned. A dash").is_visible()
    tab.keyboard.press("Home")
    tab.evaluate("document.activeElement.blur()")


def test_on_paper_there_are_no_controls(tab: Any) -> None:
    tab.emulate_media(media="print")
    assert not any(button.is_visible() for button in tab.locator(".tools, .copy, .theme, nav").all())
    assert tab.locator("h1").is_visible()
    assert chart(tab, "values").locator("svg").is_visible()


def test_numbers_are_written_as_in_python(tab: Any) -> None:
    values = [0.0, 1.0, -0.5, 12.0, 0.1 + 0.2, 999.4, 999.6, 1000.0, 12345.0, 123456.7, 1e6, 1.5e7, 0.00012345, 9.9e-5]
    values += [1.2345e-9, 1e-300, 5e300, 2.5e-5, 0.0999999]
    expected = [format_number(value) for value in values]
    assert tab.evaluate("values => values.map(value => formatNumber(value))", values) == expected
    assert tab.evaluate("[formatNumber(null), formatNumber(NaN), formatNumber(Infinity)]") == ["–"] * 3


def test_without_scripts_there_are_verdict_table_and_charts(
    browser: Any, measured_page: Path, measured: Comparison
) -> None:
    tab = open_tab(browser, viewport={"width": 360, "height": 800}, java_script_enabled=False)
    tab.goto(measured_page.as_uri())
    assert tab.locator("h1").inner_text() == measured.verdict.headline
    assert tab.locator("table").first.is_visible()
    charts = tab.locator(".static svg")
    assert charts.count() == 6
    sizes = charts.locator("text").evaluate_all(
        "all => all.map(e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a)"
    )
    assert min(sizes) >= 11
    assert not any(button.is_visible() for button in tab.locator("button, select").all())
    tab.close()


def test_with_scripts_no_chart_is_shown_twice(tab: Any) -> None:
    assert tab.locator(".static").count() == 0
    assert tab.locator("figure").count() == tab.locator("figure svg").count() == 8


def test_a_chart_that_cannot_be_drawn_leaves_the_others(browser: Any, measured_page: Path, tmp_path: Path) -> None:
    text = measured_page.read_text()
    path = tmp_path / "broken.html"
    path.write_text(text.replace('"id":"budget","kind":"lines"', '"id":"budget","kind":"lines","views":null,"x":"'))
    path.write_text(re.sub(r'("id":"budget".*?"views":)\[', r"\1[null,", text, count=1))
    tab = open_tab(browser)
    tab.goto(path.as_uri())
    assert chart(tab, "budget").locator("svg").count() >= 1  # the one of matplotlib
    assert chart(tab, "splits").locator(".series").count() >= 1
    tab.close()
