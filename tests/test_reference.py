"""The documentation builds without warnings. It is built once, by its command, for all tests."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import thalweg
from tests.handbook.clicks import clicks_from, clicks_to, links_of
from tests.handbook.questions import questions
from tests.pages import needs_browser, open_browser, open_tab
from thalweg import comparison, errors, optim, rules, tasks, testing, trajectories

ROOT = Path(__file__).parents[1]
PUBLIC_MODULES = (comparison, errors, optim, rules, tasks, testing, trajectories)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "--quiet", "-c", "docs", ".", str(folder)]
    return folder, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_documentation_builds_without_warnings(build: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, completed = build
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""


@pytest.mark.parametrize("module", PUBLIC_MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(
    module: object, build: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, _ = build
    short_name = module.__name__.partition(".")[2]
    page = (folder / "docs" / "reference" / f"{short_name}.html").read_text()
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)  # type aliases and constants have no docstring
        assert not (inspect.isclass(value) or inspect.isfunction(value)) or f'id="{module.__name__}.{name}"' in page, (
            f"{module.__name__}.{name}"
        )


def test_the_pages_show_formulas_and_link_every_module(
    build: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = build
    reference = folder / "docs" / "reference"
    assert "m_t = β₁ m_{t-1} + (1 - β₁) g_t" in (reference / "optim.html").read_text()
    index = (reference / "api.html").read_text()
    for module in PUBLIC_MODULES:
        assert module.__name__ in index
    assert thalweg.__version__ in index
    page = (reference / "testing.html").read_text()
    text = re.sub(r"<pre>.*?</pre>|<[^>]*>", "", page, flags=re.DOTALL)
    assert " – " in text  # between a parameter and its description
    assert " -- " not in text


def hrefs(page: Path) -> list[str]:
    return [
        unquote(link).replace("&amp;", "&") for link in re.findall(r'(?:href|src|srcset)="([^"]*)"', page.read_text())
    ]


def test_every_link_within_the_pages_leads_to_a_place_that_exists(
    build: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = build
    pages = sorted(path for path in folder.rglob("*.html") if path.name not in ("genindex.html", "search.html"))
    ids = {page: set(re.findall(r'\bid="([^"]*)"', page.read_text())) for page in pages}
    assert len(pages) > 150
    for page in pages:
        for link in hrefs(page):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / parts.path).resolve() if parts.path else page
            assert target.exists(), f"{page.relative_to(folder)}: {link}"
            if parts.fragment and target in ids:
                assert parts.fragment in ids[target], f"{page.relative_to(folder)}: {link}"


def test_the_sidebar_lists_every_page_by_its_title_and_no_heading(
    build: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder = build[0].resolve()
    page = folder / "docs" / "choosing" / "tuning.html"
    sidebar = page.read_text().partition('<div class="sidebar-tree">')[2].partition("</aside>")[0]
    links = [urlsplit(link) for link in re.findall(r'<a [^>]*href="([^"]*)"', sidebar)]
    assert [link for link in links if link.fragment] == []
    listed = [(page.parent / link.path).resolve() if link.path else page for link in links]
    assert len(listed) == len(set(listed))
    unlisted = set(folder.rglob("*.html")) - set(listed)
    assert {path.stem for path in unlisted} == {"index", "search", "genindex", "py-modindex"}
    assert (folder / "docs" / "index.html") in unlisted  # the page that has the lists


@pytest.mark.parametrize("start", ["docs/index", "README"])
def test_each_question_is_answered_within_three_clicks(
    build: tuple[Path, subprocess.CompletedProcess[str]], start: str
) -> None:
    """Without the page of questions, the search, and what is folded in the sidebar."""
    folder = build[0].resolve()
    docs = folder / "docs"
    distance = clicks_from(folder / f"{start}.html", docs / "questions.html")
    assert distance[docs / "choosing" / "index.html", ""] == 1
    assert not any(page == docs / "questions.html" for page, _ in distance)
    far = {}
    for question in questions():
        for answer in question.answers:
            path, _, anchor = answer.partition("#")
            clicks = clicks_to(((docs / path).with_suffix(".html"), anchor), distance)
            if clicks > 3:
                far[answer] = clicks
    assert far == {}


def test_a_link_within_the_handbook_says_in_words_where_it_leads(
    build: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """Not "here", and no path: a reader who scans a page sees its links alone. Names such as SECURITY.md are words."""
    folder, _ = build
    mute = re.compile(r"((click )?here|this( page)?|link)|.*[/a-z]\.(md|rst|html)", flags=re.IGNORECASE)
    for page in (folder / "docs").rglob("*.html"):
        words = [link.words for link in links_of(page) if link.part == "text" and not re.match("[a-z]+:", link.href)]
        assert [text for text in words if mute.fullmatch(text) and not text.partition(".")[0].isupper()] == [], page


# External links have one of these forms; a new site is added here with the form of its stable addresses.
EXTERNAL = (
    r"https://arxiv\.org/abs/\d{4}\.\d{4,5}",
    r"https://doi\.org/10\.\d{4,}/\S+",
    r"https://openreview\.net/forum\?id=[\w-]+",
    r"https://(proceedings\.mlr\.press|(www\.)?jmlr\.org|aclanthology\.org|proceedings\.neurips\.cc)/\S+",
    r"https://(docs\.)?pytorch\.org/\S+",
    r"https://github\.com/[\w.-]+/[\w.-]+(/\S*)?",
    r"https://kellerjordan\.github\.io/posts/muon/?",
    r"https://(discuss\.pytorch\.org/t|forums\.fast\.ai/t)/[\w-]+/\d+(/\d+)?",  # threads of practitioners
    r"https://gitcode\.net/\w+/\w+/-/issues/\d+",
    r"https://thinkingmachines\.ai/blog/\w+/",
    r"https://(optuna|pytorch)\.org/?",
    r"https://(www\.sphinx-doc\.org/|pradyunsg\.me)",  # the footer
)


def test_external_links_have_an_allowed_form_and_nothing_is_requested(
    build: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = build
    for page in folder.rglob("*.html"):
        for link in hrefs(page):
            if urlsplit(link).scheme in ("http", "https"):
                assert any(re.fullmatch(form, link) for form in EXTERNAL), f"{page.relative_to(folder)}: {link}"
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"([^\"]+)\"", page.read_text())
        assert not [address for address in loaded if urlsplit(address).netloc], page.name


@pytest.mark.parametrize(("page", "language"), [("start", "en"), ("zh/index", "zh-CN"), ("zh/start", "zh-CN")])
def test_a_page_names_its_language(
    build: tuple[Path, subprocess.CompletedProcess[str]], page: str, language: str
) -> None:
    folder, _ = build
    assert f'lang="{language}"' in (folder / "docs" / f"{page}.html").read_text().partition("<head")[0]


@pytest.mark.parametrize("name", ["index", "start", "optimizers/rules/adam"])
def test_the_frame_of_a_chinese_page_is_chinese(
    build: tuple[Path, subprocess.CompletedProcess[str]], name: str
) -> None:
    folder, _ = build
    page = (folder / "docs" / "zh" / f"{name}.html").read_text()
    captions = re.findall(r'caption-text">([^<]*)', page)
    assert captions[0] == "中文页面"
    assert len(captions) == 4
    titles = re.findall(r'<li class="toctree-l1[^"]*"><a [^>]*>([^<]*)</a>', page)
    assert [text for text in [*captions, *titles] if not re.search(r"[\u4e00-\u9fff]", text)] == []
    assert len(titles) == 16
    frame = page.partition('<div class="content">')[0]
    assert 'placeholder="搜索"' in frame
    assert "本页目录" in page
    assert "On this page" not in page
    assert "中文页面" not in (folder / "docs" / "start.html").read_text()


@needs_browser
def test_chinese_pages_have_fonts_and_distances_of_their_own(
    build: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    script = """() => {
        const [body, text, table, code] = ["body", "article section > p", "article td", "article pre"].map(
            place => getComputedStyle(document.querySelector(place)));
        const relative = style => parseFloat(style.lineHeight) / parseFloat(style.fontSize);
        return {fonts: body.fontFamily, text: relative(text), table: relative(table), code: relative(code),
                code_fonts: code.fontFamily, justified: text.textAlign,
                overflow: document.body.scrollWidth - innerWidth,
                head: getComputedStyle(document.querySelector("article th")).wordBreak};
    }"""
    folder, _ = build
    with open_browser() as browser:
        tab = open_tab(browser, viewport={"width": 390, "height": 800})
        styles = {}
        for page in ("start", "zh/start"):
            tab.goto((folder / "docs" / f"{page}.html").as_uri())
            styles[page] = tab.evaluate(script)
    english, chinese = styles.values()
    simplified = ("PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC")
    assert all(font in chinese["fonts"] and font not in english["fonts"] for font in simplified)
    assert chinese["fonts"].index("Segoe UI") < chinese["fonts"].index("Microsoft YaHei")  # Latin letters come first
    assert chinese["code_fonts"].index("Consolas") < chinese["code_fonts"].index("Microsoft YaHei")
    assert (english["text"], chinese["text"]) == pytest.approx((1.5, 1.75))
    assert chinese["table"] == chinese["code"] == pytest.approx(1.5)
    assert (english["head"], chinese["head"]) == ("normal", "keep-all")
    assert english["justified"] == chinese["justified"] == "start"
    assert max(english["overflow"], chinese["overflow"]) <= 0


def test_the_search_finds_a_page_and_formulas_are_drawn_without_a_script(
    build: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = build
    found = json.loads((folder / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    assert "docs/optimizers/rules/adamw" in found["docnames"]
    assert "muon" in found["terms"]
    page = (folder / "docs" / "optimizers" / "rules" / "adamw.html").read_text()
    assert '<msub><mover accent="true"><mi>m</mi>' in re.sub(r">\s+<", "><", page)
    assert not re.search(r"<script[^>]*mathjax", page, flags=re.IGNORECASE)
    assert "munderover" not in page
