"""The libraries in the package are the files that their authors published, and the policy of a page names no others."""

import base64
import fnmatch
import hashlib
import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from thalweg.report.assets import VENDORED, load_assets, read_text

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
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


# A part of a bundle, the file with its notice, a line of the notice, and its licence among those of the package.
PARTS = [
    ("d3-ease", "d3", "Copyright 2001 Robert Penner", "BSD-3-Clause"),
    ("d3-geo", "d3", "Copyright 2008-2012 Charles Karney", "MIT"),
    ("d3-scale-chromatic", "d3", "Copyright 2002 Cynthia Brewer, Mark Harrower", "Apache-2.0"),
    ("d3-delaunay", "d3", "Copyright 2021 Mapbox", "ISC"),
    ("robust-predicates", "d3", "released into the public domain", "Unlicense"),
    ("interval-tree-1d", "plot", "Copyright (c) 2013 Mikola Lysenko", "MIT"),
    ("binary-search-bounds", "plot", "Copyright (c) 2013-2015 Mikola Lysenko", "MIT"),
    ("isoformat", "plot", "Copyright 2021 Mike Bostock", "ISC"),
]


@pytest.mark.parametrize(("part", "bundle", "line", "licence"), PARTS)
def test_each_part_of_a_library_comes_with_its_notice(part: str, bundle: str, line: str, licence: str) -> None:
    notices = re.split(r"^---- (.+) [\d.]+ ----$", read_text(f"vendor/LICENSE.{bundle}-parts"), flags=re.MULTILINE)
    assert line in dict(zip(notices[1::2], notices[2::2], strict=True))[part]
    assert licence in PROJECT["license"].split(" AND ")


def test_the_licences_are_declared_and_go_into_the_package() -> None:
    declared = {path for pattern in PROJECT["license-files"] for path in ROOT.glob(pattern)}
    assert declared == {ROOT / "LICENSE", *(ROOT / "src/thalweg/report/vendor").glob("LICENSE*")}
    assert {licence for *_, licence in PARTS} == set(PROJECT["license"].split(" AND "))


def test_a_wheel_holds_all_files_of_a_page() -> None:
    """The builder takes all files of the package but those that git ignores."""
    package = Path(str(resources.files("thalweg.report")))
    names = {str(path.relative_to(package)) for path in package.rglob("*") if path.suffix not in (".py", ".pyc")}
    scripts = {f"static/{name}.js" for name in ("common", "axes", "charts", "search", "start", "paths")}
    styles = {"static/style.css", "static/paths.css"}
    pages = {f"{name}.html" for name in ("base", "parts", "page", "suite", "diagnosis", "waiting", "pictures/page")}
    licences = {f"vendor/LICENSE.{name}" for name in ("d3", "plot", "d3-parts", "plot-parts")}
    needed = scripts | styles | pages | licences | set(VENDORED)
    assert needed <= names
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split() if not line.startswith("#")]
    parts = {part for name in needed for part in ("src", "thalweg", "report", *Path(name).parts)}
    assert [pattern for pattern in ignored if fnmatch.filter(parts, pattern)] == []


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
