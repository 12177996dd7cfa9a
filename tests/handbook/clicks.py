"""How many clicks a built page of the handbook lies from another one, along links that a reader sees.

Seen are the links of the text, those of the list of headings, and of the sidebar what is not folded.
"""

import re
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

EMPTY_TAGS = {"br", "col", "hr", "img", "input", "link", "meta", "mspace", "source", "wbr"}
Place = tuple[Path, str]  # a page, and a heading on it or ""


@dataclass(frozen=True)
class Link:
    """A link that a reader of a page sees.

    Attributes:
        part: Where it stands: ``text``, ``headings`` or ``sidebar``.
        href: Its target as the page writes it.
        words: What the reader sees of it.
    """

    part: str
    href: str
    words: str


class LinkReader(HTMLParser):
    """Collects the links of a built page that are seen."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[Link] = []
        self._open: list[tuple[str, set[str]]] = []
        self._link: tuple[str, str, list[str]] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in EMPTY_TAGS:
            return
        given = dict(attrs)
        classes = set((given.get("class") or "").split())
        self._open.append((tag, classes))
        part = self._part()
        if tag == "a" and part and given.get("href") and "headerlink" not in classes:
            self._link = part, given["href"] or "", []

    def handle_endtag(self, tag: str) -> None:
        while tag not in EMPTY_TAGS and self._open and self._open.pop()[0] != tag:
            pass
        if tag == "a" and self._link is not None:
            part, href, words = self._link
            self.links.append(Link(part, href, " ".join("".join(words).split())))
            self._link = None

    def handle_data(self, data: str) -> None:
        if self._link is not None:
            self._link[2].append(data)

    def _part(self) -> str:
        """The part of the page that is being read; empty for a folded entry and for what is no link of the handbook."""
        for tag, classes in self._open:
            if tag == "article":
                return "text"
            if "toc-tree" in classes:
                return "headings"
            if "sidebar-tree" in classes:
                entries = [classes for tag, classes in self._open if tag == "li"]
                return "sidebar" if all("current" in classes for classes in entries[:-1]) else ""
        return ""


@cache
def links_of(page: Path) -> tuple[Link, ...]:
    """Return the links of a built page that are seen. A page is read once: it takes a fifteenth of a second."""
    return tuple(LinkReader(page.read_text(encoding="utf-8")).links)


def clicks_from(start: Path, without: Path) -> dict[Place, int]:
    """Return the least number of clicks from a page to each place that can be reached.

    Args:
        start: The page.
        without: A page that is not used.
    """
    distance: dict[Place, int] = {(start.resolve(), ""): 0}
    queue = list(distance)
    targets: dict[Path, list[Place]] = {}
    for place in queue:
        page = place[0]
        if page not in targets:
            hrefs = [link.href for link in links_of(page) if not re.match(r"[a-z]+:", link.href)]
            parts = [unquote(href).partition("#") for href in hrefs]
            targets[page] = [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in parts]
        for target in targets[page]:
            if target not in distance and target[0] != without.resolve() and target[0].suffix == ".html":
                distance[target] = distance[place] + 1
                queue.append(target)
    return distance


def clicks_to(answer: Place, distance: dict[Place, int]) -> float:
    """Return the clicks to a heading, or to any place of a page if no heading is named; infinite if there is no way."""
    page, anchor = answer
    ways = [clicks for place, clicks in distance.items() if place[0] == page and anchor in ("", place[1])]
    return min(ways, default=float("inf"))
