"""Pictures of the report for the documents, light and dark, from the code as it is.

Run it with Debian's ``chromium`` installed::

    python -m benchmarks.handbook.report_pictures

It runs the comparison of the README's example (its store stays in ``build/pictures``, so a second run only draws), and
writes ``docs/images/report-light.png`` and ``report-dark.png``: the top of the page at 1280 pixels.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import thalweg
from thalweg.report import write

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
STORE = ROOT / "build" / "pictures" / "store.sqlite"
CONTENDERS, BUDGET = ["sgd", "momentum", "adamw"], "40trials"
SIZE = (1280, 1000)
# The picture shows the result and the curves; the parts between them would only make it longer.
HIDDEN = ".warn, nav, #table + p, details, h2:not(.sure):not(#table):not(#curves), h2 + p.note"


def example() -> thalweg.Task:
    """Return the task of the README's first example, without the comparison that the example makes of it."""
    (code, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(code, names)
    return names["task"]


def main() -> None:
    """Make both pictures."""
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("pictures: a Chromium must be installed, got none. Install Debian's chromium.")
    STORE.parent.mkdir(parents=True, exist_ok=True)
    comparison = thalweg.compare(example(), CONTENDERS, budget=BUDGET, workers=1, store=STORE)
    page = write(comparison, STORE.with_name("report.html"))
    IMAGES.mkdir(parents=True, exist_ok=True)
    width, height = SIZE
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            tab.goto(page.as_uri())
            tab.evaluate("selector => document.querySelectorAll(selector).forEach(e => { e.hidden = true; })", HIDDEN)
            end = tab.locator("figure[data-chart^=curves]").first.bounding_box()
            clip = {"x": 0, "y": 0, "width": width, "height": end["y"] + end["height"] + 16}
            tab.screenshot(path=str(IMAGES / f"report-{scheme}.png"), clip=clip, full_page=True)
            print(f"{IMAGES / f'report-{scheme}.png'}")
        browser.close()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
