"""Pages as tests read them: their tags and text, and what a browser says of them."""

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: install Debian's chromium")


class Reader(HTMLParser):
    """The tags of a page, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def opens_in_peace(path: Path, width: int, scheme: str, *, charts: int) -> None:
    """Assert that a browser shows so many charts, large enough to read, without a complaint or a request."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        complaints: list[str] = []
        requests: list[str] = []
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(path.as_uri())
        assert opened.locator("svg").count() == charts
        for index in range(charts):
            box = opened.locator("svg").nth(index).bounding_box()
            assert box["width"] > 200
            assert box["height"] > 80
        # Readable on a phone: nothing sticks out sideways but what scrolls by itself.
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert complaints == []
    assert requests == [path.as_uri()]
