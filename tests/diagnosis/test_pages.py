"""Every kind of cause has texts and a page; the trainings on the pages fail, and their cures work."""

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest
import torch

import thalweg
from tests.handbook.blocks import blocks_in, blocks_of
from thalweg.diagnosis.clue import Clue
from thalweg.diagnosis.finding import finding_from, measured
from thalweg.diagnosis.kinds import KINDS, Kind
from thalweg.diagnosis.texts import TEXTS

FOLDER = Path(__file__).parents[2] / "docs" / "diagnosis" / "causes"
SECTIONS = [
    "What it is",
    "How it looks",
    "An example",
    "The cure",
    "How the doctor finds it",
    "When it is no fault",
    "Source",
]
STEPS = 200
CLOSE = 0.25  # of the difference between sick and cured: machines round differently
NUMBER = r"(-?[\d.]+(?:e[+-]\d+)?|NaN)"
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)


@pytest.fixture(autouse=True)
def same_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def sections(kind: Kind) -> dict[str, str]:
    """Return the text of each section of a page, in order."""
    _, *parts = re.split(r"^## ", (FOLDER / f"{kind.name}.md").read_text(), flags=re.MULTILINE)
    return {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}


def code(text: str) -> str:
    (block,) = blocks_in(text)
    assert not block.reason
    return block.code


def prose(text: str) -> str:
    return " ".join(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split())


def trained(training: thalweg.Training) -> tuple[float, float, float]:
    """Return the first loss, the last loss and the metric after training in the plain way."""
    losses = []
    batches = cycle(training.batches)
    for _ in range(STEPS):
        *inputs, target = next(batches)
        if training.step is not None:
            loss = training.step(training, *inputs, target)
        else:
            training.optimizer.zero_grad()
            loss = training.loss_fn(training.model(*inputs), target)
            loss.backward()
            training.optimizer.step()
        losses.append(loss.item())
    training.model.eval()
    with torch.no_grad():
        return losses[0], losses[-1], float(training.metric(training.model))


def shown(training: str, text: str) -> tuple[float, ...]:
    """Return the numbers of a row of the table."""
    (row,) = re.findall(rf"^\| {training} \| {NUMBER} \| {NUMBER} \| {NUMBER} \|$", text, flags=re.MULTILINE)
    return tuple(float(cell) for cell in row)


@each_kind
def test_a_page_has_all_sections_in_one_order(kind: Kind) -> None:
    page = (FOLDER / f"{kind.name}.md").read_text()
    assert page.startswith(f"# {kind.heading}\n\nGroup: [{kind.group}](../index.md#")
    parts = sections(kind)
    assert list(parts) == SECTIONS
    assert all(len(prose(text)) > 30 for text in parts.values())
    assert len(re.findall(r"^- ", parts["How it looks"], flags=re.MULTILINE)) >= 2
    linked = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose(parts["Source"]))
    assert linked.startswith(f"{kind.source}. "), "the source on the page is not that of the kind"
    for target in re.findall(r"\]\((\w+\.md)", page):
        assert (FOLDER / target).exists()


@each_kind
def test_the_title_of_a_page_has_words_besides_the_identifier(kind: Kind) -> None:
    heading = re.match(r"# (.*)\n", (FOLDER / f"{kind.name}.md").read_text())
    assert heading
    words, _, rest = heading[1].partition(f" (`{kind.name}`)")
    assert heading[1].count(f"`{kind.name}`") == 1
    assert rest == ""
    assert re.fullmatch(r"[A-Z][a-zA-Z' ,-]+", words), words
    assert len(re.findall(r"[a-zA-Z]{2,}", words)) >= 2, words


def test_the_titles_of_pages_differ() -> None:
    titles = [kind.title for kind in KINDS.values()]
    assert len(set(titles)) == len(titles)


def test_the_index_lists_every_page_by_its_title_and_in_its_group() -> None:
    index = (FOLDER.parent / "index.md").read_text()
    groups = re.findall(r"^### (.*)\n\n((?:- \[.*\n)+)", index, flags=re.MULTILINE)
    listed = {
        name: (group.lower(), heading)
        for group, lines in groups
        for heading, name in re.findall(r"^- \[(.*)\]\(causes/(\w+)\.md\)$", lines, flags=re.MULTILINE)
    }
    assert listed == {kind.name: (kind.group, kind.heading) for kind in KINDS.values()}


def test_every_page_is_of_a_kind_and_listed() -> None:
    pages = {path.stem for path in FOLDER.glob("*.md")}
    assert pages == set(KINDS)
    assert KINDS["dead_relu"].url == "docs/diagnosis/causes/dead_relu.md"


@each_kind
def test_the_training_on_a_page_fails_and_its_cure_works(kind: Kind) -> None:
    parts = sections(kind)
    assert len(blocks_of(FOLDER / f"{kind.name}.md")) == 2, "the example and its cure are run, no other block is"
    scope: dict = {}
    with warnings.catch_warnings():
        if kind.name == "parameter_twice":
            warnings.filterwarnings("ignore", "optimizer contains a parameter group with duplicate", UserWarning)
        exec(code(parts["An example"]), scope)
        exec(code(parts["The cure"]), scope)
        assert isinstance(scope["training"](1), thalweg.Training)
        sick, cured = trained(scope["training"](0)), trained(scope["cured"](0))
    told_sick, told_cured = shown("as it is", parts["The cure"]), shown("cured", parts["The cure"])
    for measurement, told in ((sick, told_sick), (cured, told_cured)):
        assert measurement[0] == pytest.approx(told[0], rel=0.02, nan_ok=True)
        assert math.isfinite(measurement[1]) == math.isfinite(told[1])
    assert math.isfinite(cured[2])
    if math.isnan(told_sick[2]):
        assert math.isnan(sick[2])
        return
    gap = told_cured[2] - told_sick[2]
    assert gap > 0
    assert sick[2] < cured[2]
    assert sick[2] == pytest.approx(told_sick[2], abs=CLOSE * gap)
    assert cured[2] == pytest.approx(told_cured[2], abs=CLOSE * gap)


@each_kind
def test_the_texts_of_a_kind_are_sentences(kind: Kind) -> None:
    for text in (kind.explanation, kind.remedy):
        assert re.fullmatch(r"[A-Z0-9`].*\.", text), text
        assert len(text) > 30
        assert len(text) < 260  # a terminal shows it in three lines
        assert text.count("`") % 2 == 0
    assert kind.source
    assert not kind.source.endswith(".")


def test_there_are_texts_of_all_kinds_and_of_no_others() -> None:
    assert set(TEXTS) == set(KINDS)


def test_a_finding_has_the_numbers_of_its_clue() -> None:
    clue = Clue("dead_relu", "likely", "hidden.2", 40, {"dead share": 0.93456, "since_step": 40, "first": "hidden.2"})
    finding = finding_from(clue, "warning")
    assert (finding.kind, finding.where, finding.since, finding.severity) == ("dead_relu", "hidden.2", 40, "warning")
    assert finding.evidence == clue.evidence
    assert finding.explanation == (
        f"{KINDS['dead_relu'].explanation} Measured: dead share 0.935, since step 40, first hidden.2."
    )
    assert finding.remedy == KINDS["dead_relu"].remedy
    assert finding.url == "docs/diagnosis/causes/dead_relu.md"


def test_a_finding_without_evidence_has_its_explanation_alone() -> None:
    assert finding_from(Clue("plateau", "possible"), "note").explanation == KINDS["plateau"].explanation


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (1e-12, "1e-12"),
        (0.0, "0"),
        (250, "250"),
        (True, "True"),
        ("{where}", "{where}"),
    ],
)
def test_every_value_of_evidence_can_be_shown(value: float | str, text: str) -> None:
    assert measured({"value": value}) == f"Measured: value {text}."
    clue = replace(Clue("plateau", "possible"), evidence={"value": value})
    assert finding_from(clue, "note").explanation.endswith(f"Measured: value {text}.")
