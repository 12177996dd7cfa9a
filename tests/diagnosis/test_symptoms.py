"""The page of symptoms: it leads to every cause, and its numbers are those of the pages of causes."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from thalweg.diagnosis.kinds import KINDS

FOLDER = Path(__file__).parents[2] / "docs" / "diagnosis"
TEXT = (FOLDER / "symptoms.md").read_text()
ROW = re.compile(r"^\| (?P<check>.+) \| \[(?P<title>.+)\]\(causes/(?P<kind>\w+)\.md\) \|$", flags=re.MULTILINE)
SECTIONS = {
    heading: ROW.findall(text)
    for heading, _, text in (part.partition("\n") for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:])
}
ROWS = [(heading, *row) for heading, rows in SECTIONS.items() for row in rows]


def test_every_cause_has_a_symptom() -> None:
    assert {kind for *_, kind in ROWS} == set(KINDS)


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_symptom_has_several_causes_with_checks_that_differ(heading: str) -> None:
    checks = [check for check, *_ in SECTIONS[heading]]
    assert len(set(checks)) == len(checks) >= 3
    assert len({kind for *_, kind in SECTIONS[heading]}) == len(checks)


def test_the_table_of_symptoms_has_the_causes_of_the_sections_in_their_order() -> None:
    rows = re.findall(r"^\| \[(.+?)\]\(#([\w-]+)\) \| (.*) \|$", TEXT, flags=re.MULTILINE)
    listed = {heading: re.findall(r"\[`(\w+)`\]\(causes/\1\.md\)", causes) for heading, _, causes in rows}
    assert listed == {heading: [kind for *_, kind in section] for heading, section in SECTIONS.items()}
    for heading, anchor, _ in rows:
        assert anchor == re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(("heading", "check", "title", "kind"), ROWS)
def test_a_row_has_the_title_and_the_numbers_of_its_cause(heading: str, check: str, title: str, kind: str) -> None:
    assert f"{title} (`{kind}`)" == KINDS[kind].heading
    page = " ".join((FOLDER / "causes" / f"{kind}.md").read_text().split())
    for number in re.findall(r"(?<!\[)\d[\d.e-]*(?: %)?", re.sub(r"\b(float|bfloat)\d+", "", check)):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", page), f"{heading}: {number}"


def test_the_losses_of_a_guess_are_as_the_page_says() -> None:
    page = " ".join(TEXT.split())
    assert f"{math.log(10):.2f} for 10, {math.log(2):.2f} for 2" in page
    of_10, of_2 = (math.log(math.e + classes - 1) - 1 for classes in (10, 2))
    assert f"stops at {of_10:.2f} (10 classes) or {of_2:.2f} (2 classes)" in page


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled", "ignore:Error detected in")
@pytest.mark.parametrize(
    ("kind", "function", "loss"),
    [
        ("nan_from_sqrt", "PowBackward0", lambda weight: (weight - weight).square().sum().sqrt()),
        ("nan_from_sqrt", "SqrtBackward0", lambda weight: (0 * weight.sqrt()).sum()),
        ("nan_from_log", "LogBackward0", lambda weight: (0 * (1 - (weight + 20).sigmoid()).log()).sum()),
        ("nan_from_division", "DivBackward0", lambda weight: ((weight - weight) / (weight - weight).norm()).sum()),
    ],
)
def test_the_anomaly_mode_names_the_function_of_the_row(
    kind: str, function: str, loss: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    (check,) = [check for check, _, name in SECTIONS["NaN after 1,000 steps"] if name == kind]
    assert f"`{function}`" in check
    weight = torch.zeros(1, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True), pytest.raises(RuntimeError, match=f"'{function}' returned nan"):
        loss(weight).backward()
