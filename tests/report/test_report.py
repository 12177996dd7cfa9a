"""The report: from the store alone, whole in one file, and quiet in a browser."""

import re
from pathlib import Path

import pytest

import thalweg
from tests.pages import Reader, needs_browser, opens_in_peace
from thalweg.comparison import Comparison, Store
from thalweg.errors import StoreError
from thalweg.report import render
from thalweg.report.charts import digits, intervals, number


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a comparison in which settings diverged and a contender's name needs escaping."""
    path = tmp_path_factory.mktemp("report") / "store.sqlite"
    evil = thalweg.Contender('<b>&"evil"', thalweg.rules.SGD(lr=0.1), about="<script>alert(1)</script>")
    thalweg.compare("linear-regression", ["gd", "adam", evil], budget="10trials", store=path)
    return path


@pytest.fixture(scope="module")
def page(store: Path) -> str:
    opened = Store(store)
    return render(Comparison(opened, opened.find()))


def test_the_page_names_no_outside_address(page: str) -> None:
    assert not re.findall(r"https?:|//[a-z]", page)
    for tag, attributes in Reader(page).tags:
        assert tag not in ("script", "img", "iframe", "link") or attributes.get("rel") == "icon"


def test_the_page_shows_verdict_table_curves_rates_environment_and_seeds(page: str, store: Path) -> None:
    opened = Store(store)
    found = Comparison(opened, opened.find())
    text = re.sub(r"\s+", " ", Reader(page).text)
    assert found.verdict.text in text
    assert found.verdict.headline in text
    assert "starting point" in text
    assert not re.search(r">recommended( seeds)?<", page)  # as a column it was taken for the recommendation
    assert text.index(found.verdict.text) < text.index("Which setting to use") < text.index("Along the training")
    assert re.sub(r"\s+", " ", found.code) in text
    for one in found.contenders:
        assert one.name in text
        assert digits(one.value.mean) in text
        assert "lr " + f"{one.settings['lr']:g}" in text
    assert "The least training loss there is: 0.07623325" in text
    labels = [attributes["aria-label"] for tag, attributes in Reader(page).tags if tag == "svg"]
    assert len(labels) == 5  # where each ended, the training loss, and a learning rate chart for each contender
    for seed in found.contenders[0].seeds:
        assert str(seed) in text
    assert found.record.environment["torch"] in text
    assert "settings diverged or failed" in text


def test_names_of_the_users_are_escaped(page: str) -> None:
    assert "<script>" not in page
    assert "<b>&" not in page


def test_the_same_store_gives_the_same_page(page: str, store: Path) -> None:
    opened = Store(store)
    assert render(Comparison(opened, opened.find())) == page


def test_a_report_that_cannot_be_written_says_so(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    opened = Store(store)
    with pytest.raises(StoreError, match="the report must be writable"):
        Comparison(opened, opened.find()).report(tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.00012, "0.00012"), (0.07623, "0.0762"), (12.0, "12"), (1.2345e-9, "1.2e-09"), (float("inf"), "–")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_digits_are_all_shown_where_numbers_are_compared() -> None:
    assert [digits(value) for value in (0.08001, 12.0, 123.4, 0.0)] == ["0.0800", "12.0", "123", "0"]


def test_neighbouring_ticks_differ_however_small_the_range() -> None:
    values = {"sgd": (2.3021, 2.3024, 2.3029), "adam": (2.3033, 2.3038, 2.3041)}
    drawn = intervals(values, {"sgd": "red", "adam": "blue"}, "loss")
    ticks = re.findall(r">(2\.\d+)<", drawn)
    assert len(ticks) == len(set(ticks)) > 2


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (390, "dark")])
def test_the_page_opens_in_a_browser_without_a_complaint_or_a_request(
    page: str, tmp_path: Path, width: int, scheme: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page)
    opens_in_peace(path, width, scheme, charts=5)
