"""The report comes from the store alone, is one self-contained file, and opens in a browser without messages."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import thalweg
from tests.pages import Reader, assert_opens_cleanly, needs_browser, without_scripts
from thalweg.comparison import Comparison, Store
from thalweg.comparison.presentation.overview import compared_value
from thalweg.errors import StoreError
from thalweg.report import render
from thalweg.report.charts.static import render_svg, set_scale
from thalweg.report.numbers import format_digits, format_number
from thalweg.tasks.built_in.classics import linear_regression


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a comparison with a race, in which settings diverged and a contender's name needs escaping."""
    path = tmp_path_factory.mktemp("report") / "store.sqlite"
    evil = thalweg.Contender('<b>&"evil"', thalweg.rules.SGD(lr=0.1), about="<script>alert(1)</script>")
    task = replace(linear_regression(), passes=10)
    thalweg.compare(task, ["gd", "adam", evil], budget="34trials", store=path)  # 102 trainings: with a race
    return path


@pytest.fixture(scope="module")
def page(store: Path) -> str:
    opened_store = Store(store)
    return render(Comparison(opened_store, opened_store.find()))


def test_the_page_names_no_outside_address(page: str) -> None:
    outside = without_scripts(page)
    assert len(page) - len(outside) > 400_000  # the libraries, whose comments and names of elements have addresses
    assert not re.findall(r"https?:|//[a-z]", outside)
    for tag, attributes in Reader(page).tags:
        assert not {"src", "srcset", "data", "action"} & attributes.keys()
        assert tag not in ("img", "iframe", "object", "embed", "base", "form")
        assert tag != "link" or attributes == {"rel": "icon", "href": "data:,"}


def test_the_page_shows_verdict_table_curves_rates_environment_and_seeds(page: str, store: Path) -> None:
    opened_store = Store(store)
    comparison = Comparison(opened_store, opened_store.find())
    text = re.sub(r"\s+", " ", Reader(page).text)
    assert comparison.verdict.text in text
    assert comparison.verdict.headline in text
    assert "starting point" in text
    # As the name of a column it would be mistaken for the recommendation.
    assert not re.search(r">recommended( seeds)?<", page)
    order = [comparison.verdict.headline, comparison.verdict.text, "Which setting to use", "Along the training"]
    order += ["What half of the search shows", "The search", "Findings of each contender", "Reproduce it"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert re.sub(r"\s+", " ", comparison.code) in text
    for summary in comparison.contenders:
        assert summary.name in text
        assert format_digits(summary.value.mean) in text
        assert "lr " + f"{summary.settings['lr']:g}" in text
    assert "The lowest possible training loss: 0.07623325" in text
    labels = [attributes["aria-label"] for tag, attributes in Reader(page).tags if tag == "svg"]
    assert len(labels) == 4  # values, training loss, learning rates, budget
    shown = compared_value(comparison.contenders[0], comparison.plan).mean
    assert f"{format_number(shown - 0.07623325)}" in labels[0]
    for seed in comparison.contenders[0].seeds:
        assert str(seed) in text
    assert comparison.record.environment["torch"] in text
    assert "searched settings diverged" in text


def test_names_from_the_user_are_escaped(page: str) -> None:
    assert page.count("<script>") == 3  # two libraries and ours
    assert page.count("alert(1)") == 1  # the title of its row
    assert '<script type="application/json" id="page-data">' in page
    assert "<b>&" not in page


def test_the_same_store_gives_the_same_page(page: str, store: Path) -> None:
    opened_store = Store(store)
    assert render(Comparison(opened_store, opened_store.find())) == page


def test_a_report_that_cannot_be_written_raises(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    opened_store = Store(store)
    with pytest.raises(StoreError, match="the report must be writable"):
        Comparison(opened_store, opened_store.find()).report(tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.00012, "0.00012"), (0.07623, "0.0762"), (12.0, "12"), (1.2345e-9, "1.2e-09"), (float("inf"), "–")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


def test_compared_numbers_show_all_digits() -> None:
    assert [format_digits(value) for value in (0.08001, 12.0, 123.4, 0.0)] == ["0.0800", "12.0", "123", "0"]


def test_neighbouring_ticks_differ_however_small_the_range() -> None:
    values = {"sgd": (2.3021, 2.3024, 2.3029), "adam": (2.3033, 2.3038, 2.3041)}
    ends = [end for interval in values.values() for end in interval]

    def draw(axes):
        axes.plot(ends, ends)
        set_scale(axes, "x", ends)

    chart = render_svg("loss", 4.0, 3.0, draw)
    ticks = re.findall(r">(2\.\d+)<", chart)
    assert len(ticks) == len(set(ticks)) > 2


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (390, "dark")])
def test_the_page_opens_in_a_browser_without_messages_or_requests(
    page: str, tmp_path: Path, width: int, scheme: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page)
    assert_opens_cleanly(path, width, scheme, charts=6)  # and the two of the search
