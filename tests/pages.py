"""Helpers for tests of HTML pages: their tags and text, and the messages of a browser that opens them."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: install Debian's chromium")
# Only a page that never does what it must do waits so long: a busy machine may be many times slower than an idle one.
PATIENCE_MS = 600_000


@contextmanager
def open_browser() -> Iterator[Any]:
    """Open Chromium, and close it at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield browser
        browser.close()


def open_tab(browser: Any, **options: Any) -> Any:
    """Return a new page of a browser, which waits as long as a slow machine needs."""
    tab = browser.new_page(**options)
    tab.set_default_timeout(PATIENCE_MS)
    return tab


@contextmanager
def open_silent_tab(browser: Any, path: Path) -> Iterator[Any]:
    """Open a page in a wide window, and assert that it neither wrote a message nor asked anything of anyone."""
    tab = open_tab(browser, viewport={"width": 1280, "height": 900}, color_scheme="light", accept_downloads=True)
    messages: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    yield tab
    tab.close()
    assert messages == []
    assert [url for url in requests if not url.startswith(("blob:", "data:"))] == [path.as_uri()]


def chart(tab: Any, name: str) -> Any:
    """Return a chart of a page."""
    return tab.locator(f'figure[data-chart="{name}"]')


def drawn(figure: Any) -> set[str]:
    """Return the contenders whose lines or dots a chart shows."""
    return set(figure.locator(".series").evaluate_all("nodes => nodes.map(node => node.dataset.name)"))


class Reader(HTMLParser):
    """Reads the tags and the text of a page; scripts, their data and the style are no text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self._is_text = True
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        self._is_text = tag not in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._is_text = True

    def handle_data(self, data: str) -> None:
        if self._is_text:
            self.text += data


def without_scripts(page: str) -> str:
    """Return a page without the texts of its scripts; data remain."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def assert_opens_cleanly(path: Path, width: int, scheme: str, *, charts: int) -> None:
    """Assert that a browser shows this number of charts, large enough to read, without messages or requests."""
    with open_browser() as browser:
        tab = open_tab(browser, viewport={"width": width, "height": 800}, color_scheme=scheme)
        messages: list[str] = []
        requests: list[str] = []
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        assert tab.locator("svg").count() == charts
        for index in range(charts):
            box = tab.locator("svg").nth(index).bounding_box()
            assert box["width"] > 200
            assert box["height"] > 80
        # Readable on a phone: the page itself does not scroll sideways.
        widest = """[document.documentElement.scrollWidth, ...[...document.querySelectorAll('*')]
            .filter(e => !e.closest('.scroll, .sr') && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0)
            .map(e => `${e.scrollWidth} in ${e.clientWidth}: ${e.outerHTML}`)]"""
        scroll_width, *outside = tab.evaluate(widest)
        assert scroll_width <= width, [scroll_width, *(element[:200] for element in outside)]
    assert messages == []
    assert requests == [path.as_uri()]
