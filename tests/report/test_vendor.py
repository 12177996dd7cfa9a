"""The libraries in the package are the files that their authors published, and the policy of a page names no others."""

import base64
import hashlib
import re

import pytest

from thalweg.report.assets import VENDORED, load_assets, read_text

HASHES = {
    "vendor/d3.min.js": "f2094bbf6141b359722c4fe454eb6c4b0f0e42cc10cc7af921fc158fceb86539",
    "vendor/plot.umd.min.js": "4358086467740777dd788d6b27a95cebdbaefdd50c730a3060117073bd7134cb",
}


@pytest.mark.parametrize("name", VENDORED)
def test_a_library_is_the_published_file(name: str) -> None:
    text = read_text(name)
    assert hashlib.sha256(text.encode()).hexdigest() == HASHES[name]
    assert HASHES[name] in read_text("vendor/README.md")
    assert "</script" not in text  # it stands inside a page
    assert not re.search(r"\beval\(", text)


@pytest.mark.parametrize("name", ["d3", "plot"])
def test_a_library_comes_with_its_licence(name: str) -> None:
    assert "Permission to use, copy, modify, and/or distribute this software" in read_text(f"vendor/LICENSE.{name}")


@pytest.mark.parametrize("with_charts", [True, False])
def test_the_policy_allows_our_scripts_and_nothing_else(with_charts: bool) -> None:
    assets = load_assets(with_charts=with_charts)
    rules = dict(rule.strip().split(" ", 1) for rule in assets.policy.split(";"))
    expected = {
        f"'sha256-{base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()}'"
        for script in assets.scripts
    }
    assert set(rules["script-src"].split()) == expected
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "connect-src" not in rules
    assert "unsafe-eval" not in assets.policy
    assert rules["style-src"].count("sha256") == 1 + with_charts  # the library writes one style of its own
    assert "unsafe-inline" not in rules["style-src"]


def test_only_a_live_page_may_ask_its_server() -> None:
    policy = load_assets(with_charts=True, is_live=True).policy
    assert policy == load_assets(with_charts=True).policy + "; connect-src 'self'"
