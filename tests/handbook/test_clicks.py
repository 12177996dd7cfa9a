"""Clicks are counted as a reader makes them: folded entries, the page left out, and headings of a page."""

import math
from pathlib import Path

import pytest

from tests.handbook.clicks import Link, clicks_from, clicks_to, links_of

SIDEBAR = """
<div class="sidebar-tree"><p class="caption"><span>Use it</span></p><ul>
<li class="toctree-l1"><a href="b.html">B</a><input type="checkbox"/>
<ul><li class="toctree-l2"><a href="folded.html">Folded</a></li></ul></li>
<li class="toctree-l1 current"><a href="#">A</a>
<ul><li class="toctree-l2"><a href="open.html">Open</a></li></ul></li>
</ul></div>"""
PAGES = {
    "a": f"{SIDEBAR}<article><h1>A<a class='headerlink' href='#a'>¶</a></h1><p><a href='list.html'>All <b>pages</b></a>"
    "<br/><a href='https://example.org/x.html'>away</a></p></article><footer><a href='next.html'>Next</a></footer>",
    "b": "<article><a href='deep.html#second'>the second part</a></article>",
    "list": "<article><a href='folded.html'>F</a> <a href='deep.html'>D</a></article>",
    "deep": "<article><h1>Deep</h1></article><div class='toc-tree'><a href='#first'>First</a></div>",
    "folded": "<article></article>",
    "open": "<article><a href='#x'>x</a></article>",
    "next": "",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, text in PAGES.items():
        (tmp_path / f"{name}.html").write_text(text)
    return tmp_path.resolve()


def test_the_links_that_are_seen(site: Path) -> None:
    assert links_of(site / "a.html") == (
        Link("sidebar", "b.html", "B"),
        Link("sidebar", "#", "A"),
        Link("sidebar", "open.html", "Open"),
        Link("text", "list.html", "All pages"),
        Link("text", "https://example.org/x.html", "away"),
    )
    assert links_of(site / "deep.html") == (Link("headings", "#first", "First"),)


def test_clicks_are_counted_to_pages_and_to_headings(site: Path) -> None:
    distance = clicks_from(site / "a.html", site / "none.html")

    def clicks(name: str, heading: str = "") -> float:
        return clicks_to((site / f"{name}.html", heading), distance)

    assert [clicks("a"), clicks("b"), clicks("open"), clicks("list")] == [0, 1, 1, 1]
    assert clicks("folded") == 2  # by the list, not by the folded entry
    assert (clicks("deep"), clicks("deep", "second"), clicks("deep", "first")) == (2, 2, 3)
    assert (clicks("next"), clicks("deep", "third")) == (math.inf, math.inf)


def test_a_page_can_be_left_out(site: Path) -> None:
    distance = clicks_from(site / "a.html", site / "list.html")
    assert clicks_to((site / "folded.html", ""), distance) == math.inf
    assert clicks_to((site / "deep.html", ""), distance) == 2
