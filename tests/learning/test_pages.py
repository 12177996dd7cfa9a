"""The pages of the lesson: code that equals the examples, outputs, pictures, and every decimal number."""

import ast
import json
import re
from pathlib import Path

import drawings
import figures
import numpy as np
import pytest
import small_network
from claims import CLAIMS, SETTINGS
from lesson.side_by_side import LEARNING_RATES, SIX, numpy_path

from tests.handbook.blocks import blocks_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "learning"
NAMES = ("linear_regression", "optimizers_by_hand", "logistic_regression", "small_network")
LESSONS = [FOLDER / f"{name}.md" for name in NAMES]
PAGES = [FOLDER / "index.md", *LESSONS]
UPDATE = "run: python docs/learning/figures.py"


def by_name(page: Path) -> str:
    return page.stem


def definitions(source: str) -> dict[str, str]:
    """Return each function and class of a source by its name, without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            del node.body[0]
    return {node.name: ast.unparse(node) for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


# Each page shows a function of one example; `batch=slice(None)` stands for ALL where the page has no such name.
SOURCES = {page: [f"{page}.py", "lesson/numpy_optimizers.py"] for page in ("logistic_regression", "small_network")}
SOURCES["linear_regression"] = ["linear_regression.py", "lesson/numpy_optimizers.py", "lesson/mistakes.py"]
SOURCES["optimizers_by_hand"] = []
ONLY_ON_A_PAGE = {"cross_entropy_of_probability", "squared_error_slope"}


@pytest.mark.parametrize("page", LESSONS, ids=by_name)
def test_functions_on_a_page_are_those_of_the_examples(page: Path) -> None:
    examples: dict[str, str] = {}
    for path in SOURCES[page.stem]:
        examples |= definitions((ROOT / "examples" / path).read_text(encoding="utf-8"))
    shown = definitions("\n".join(block.code for block in blocks_of(page)))
    assert set(shown) - ONLY_ON_A_PAGE <= set(examples)
    for name in set(shown) - ONLY_ON_A_PAGE:
        assert shown[name].replace("batch=slice(None)", "batch=ALL") == examples[name], name
    assert page.stem == "optimizers_by_hand" or len(shown) >= 4


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_the_output_on_a_page_is_that_of_the_example(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert figures.with_outputs(text) == text, UPDATE
    assert " no\n" not in text


def test_each_example_has_its_output_on_a_page() -> None:
    shown = re.findall(r"<!-- output of examples/(\w+)\.py -->", "".join(page.read_text() for page in PAGES))
    assert sorted(shown) == ["linear_regression", "logistic_regression", "small_network"]


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


@pytest.mark.parametrize("name", drawings.PICTURES)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_a_picture_is_the_one_that_the_code_draws(name: str) -> None:
    stored = (FOLDER / "images" / f"{name}.svg").read_text(encoding="utf-8")
    drawn = figures.render(drawings.PICTURES[name])
    # Ids are hashes of content whose last digits may differ between processors.
    stored, drawn = (re.sub(r"(id=\"|#)\w+", r"\1", svg) for svg in (stored, drawn))
    assert NUMBER.sub("#", drawn) == NUMBER.sub("#", stored), UPDATE
    before, after = (np.array([float(number) for number in NUMBER.findall(svg)]) for svg in (stored, drawn))
    assert np.abs(before - after).max() < 0.01, UPDATE


def test_every_picture_is_shown_and_has_a_text_with_a_number() -> None:
    shown = re.findall(r"!\[([^\]]*)\]\(images/(\w+)\.svg\)", "".join(page.read_text() for page in LESSONS))
    assert sorted(name for _, name in shown) == sorted(drawings.PICTURES)
    assert sorted(path.stem for path in (FOLDER / "images").glob("*.svg")) == sorted(drawings.PICTURES)
    for text, name in shown:
        assert re.search(r"\d", text), f"{name}: the alternative text states the values"


def luminance(colour: str) -> float:
    channels = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [1, 2], ids=["light", "dark"])
def test_lines_and_letters_stand_out_from_the_background(theme: int) -> None:
    colours = {name[0]: name[theme] for name in drawings.THEME.values()}
    background = luminance(colours.pop("background"))
    del colours["grid"]
    for name, colour in colours.items():
        low, high = sorted((luminance(colour), background))
        # Every colour but grey is also one of letters.
        assert (high + 0.05) / (low + 0.05) >= (3 if name == "grey" else 4.5), name


def test_a_picture_has_no_colour_outside_of_the_theme() -> None:
    for path in (FOLDER / "images").glob("*.svg"):
        _, _, drawing = path.read_text(encoding="utf-8").partition("</style>")
        assert not re.findall(r"#[0-9a-f]{6}\b", drawing), path.name


def prose(page: Path) -> str:
    text = re.sub(r"^ *```.*?^ *```|<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)|arXiv:[\d.]+|images/\w+\.svg", "]", text)
    return " ".join(text.split())


@pytest.mark.parametrize("page", LESSONS, ids=by_name)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_every_number_on_a_page_is_computed(page: Path) -> None:
    text = prose(page)
    for claim in CLAIMS[page.stem]():
        assert claim in text
        text = text.replace(claim, "")
    left = set(re.findall(r"\d+(?:,\d{3})*\.\d+(?:e-?\d+)?|\d+(?:,\d{3})+", text)) - SETTINGS
    assert not left, f"{page.name}: state in tests/learning/claims.py how these numbers come about"


def losses_at(name: str, rates: list[float]) -> dict[float, float]:
    return {lr: small_network.loss(numpy_path(small_network.PROBLEM, name, lr)[-1]) for lr in rates}


@pytest.mark.parametrize("name", SIX)
def test_the_record_of_the_network_is_that_of_the_example(name: str) -> None:
    record = {float(lr): values[0] for lr, values in json.loads(drawings.RECORD.read_text())[name].items()}
    best = small_network.BEST_LR[name]
    assert list(record) == LEARNING_RATES
    assert min(record, key=record.get) == best
    assert 0 < LEARNING_RATES.index(best) < len(LEARNING_RATES) - 1
    update = "run: python docs/learning/figures.py --record"
    assert losses_at(name, [best]) == pytest.approx({best: record[best]}, rel=1e-6), update


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("is drawn is 1.2262", "is drawn is 1.2263"), ("settles after 80.", "settles after 81."), ("## ", "9.99 ## ")],
)
def test_a_wrong_number_on_a_page_is_noticed(tmp_path: Path, right: str, wrong: str) -> None:
    text = (FOLDER / "linear_regression.md").read_text(encoding="utf-8")
    page = tmp_path / "linear_regression.md"
    assert right in text
    page.write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(AssertionError):
        test_every_number_on_a_page_is_computed(page)
