"""The generated parts of the handbook are those of the declarations and records."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.handbook import __main__ as handbook
from benchmarks.handbook import commands, evidence, pictures
from benchmarks.handbook.rule_page import PAGES, Subject
from benchmarks.tables.markdown import linked, with_region
from thalweg.groups import GROUPS, SHORTLIST
from thalweg.registry import RULES, WRAPPERS

ROOT = Path(__file__).parents[2]
# The classical optimizers, and those of the shortlist, have advice by hand.
ADVISED = ["sgd", "heavy_ball", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "nadam", "lbfgs"]
ADVISED += ["muon", "lion", "schedule_free_adamw", "prodigy"]


def test_the_pages_are_those_of_the_rules_and_records() -> None:
    for path, text in handbook.pages().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is out of date; run: python -m benchmarks.handbook"


def test_every_rule_has_a_page_and_no_page_is_left_over() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*RULES, *WRAPPERS}


def test_the_index_links_every_page_in_its_group() -> None:
    sections = re.split(r"^## ", handbook.INDEX.read_text(), flags=re.MULTILINE)
    by_heading = {section.partition("\n")[0]: section for section in sections}
    assert list(by_heading)[1] == "Shortlist"
    for group in GROUPS.values():
        assert set(re.findall(r"\(rules/(\w+)\.md\)", by_heading[group.name])) == set(group.members)
    for name in SHORTLIST:
        assert f"| `{name}` |" in by_heading["Shortlist"]


@pytest.mark.parametrize("name", [*RULES, *WRAPPERS])
def test_a_page_has_all_parts_and_its_picture(name: str) -> None:
    text, subject = (PAGES / f"{name}.md").read_text(), Subject(name)
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert {"Formula", "Settings", "State and scope", "Correctness", "Source", "Related"} <= set(headings)
    assert len(headings) == len(set(headings))
    for hyper in subject.explanation.hypers:
        if not subject.is_wrapper:
            assert f"| `{hyper.name}` |" in text
    for link in subject.explanation.links:
        assert f"({link})" in text
    picture = pictures.FOLDER / f"{name}.webp"
    drawn = json.loads(pictures.RECORD.read_text())["rules"]
    assert (name in drawn) == picture.exists() == ("## Paths" in text)
    assert not picture.exists() or picture.stat().st_size < 60_000


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("sgd", "SGD with momentum"),
        ("lion", "Lion"),
        ("adam", "Adam"),
        ("adamw", "AdamW"),
        ("cautious", "Cautious around Adam"),
    ],
)
def test_the_words_beside_a_picture_name_the_contender_that_it_draws(name: str, drawn: str) -> None:
    contender = pictures.contender_of(name)
    assert contender == {"sgd": "momentum", "cautious": "cautious(adam)"}.get(name, name)
    text = (PAGES / f"{name}.md").read_text().partition("## Paths\n")[2].partition("\n## ")[0]
    references = "gradient descent" if name == "adamw" else "gradient descent and AdamW"
    assert f"![Paths of {drawn} on Rosenbrock's function and on a quadratic, beside {references} (dashed)]" in text
    assert f"\n{drawn}: 200 steps at a learning rate of " in text
    assert f"Dashed: {references}, for comparison." in text


@pytest.mark.parametrize("name", ["sgd", "lion"])
def test_the_record_of_paths_is_that_of_the_rule(name: str) -> None:
    recorded = json.loads(pictures.RECORD.read_text())["rules"][name]
    measured = pictures.end_of_path("quadratic", pictures.contender_of(name))
    assert measured["steps"] == recorded["quadratic"]["steps"]
    assert measured["lr"] == pytest.approx(recorded["quadratic"]["lr"])
    assert measured["end"] == pytest.approx(recorded["quadratic"]["end"], rel=1e-3)


@pytest.mark.parametrize("name", ADVISED)
def test_the_advice_has_sources(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text()
    advice = text.partition("## In practice\n")[2].partition("<!-- facts")[0]
    prose = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", advice)
    assert len(prose.split()) >= 150, len(prose.split())
    for paragraph in re.split(r"\n(?=- )", advice.strip()):
        sourced = re.search(r"\]\((https://|#|[^)]*(\.json|\.md))", paragraph)
        assert sourced, f"a claim has a source, a record or a formula: {paragraph[:80]}"


def test_the_shortlist_has_advice() -> None:
    assert {name for name in ADVISED if name in RULES} == set(ADVISED)
    for name in SHORTLIST:
        first = name.split("+")[0]
        assert ("sgd" if first == "momentum" else first) in ADVISED


def test_rates_that_worked_are_those_of_the_record() -> None:
    trainings = evidence.record("choosing_in_the_wild")["trainings"]
    tuned = {entry.training: entry for entry in evidence.tuned_trainings("nadam")}
    assert set(tuned) == {name for name in trainings if "nadam" in trainings[name]["contenders"]}
    best = trainings["fine-tuning"]["contenders"]["nadam"]
    assert tuned["fine-tuning"].lr == best["best"]["settings"]["lr"]
    assert tuned["fine-tuning"].worse_by == "best"
    for name, entry in tuned.items():
        if entry.lr_range:
            assert entry.lr_range[0] < entry.lr_range[1], name


def share_of(words: str) -> float:
    """The number behind `50 %`, `×2.6` or `best`: the loss divided by the best one, less 1."""
    if words == "best":
        return 0.0
    return float(words[1:]) - 1 if words[0] == "×" else float(words.split("\N{NO-BREAK SPACE}")[0]) / 100


def test_the_distance_from_the_best_is_the_ratio_of_test_losses() -> None:
    trainings = evidence.record("choosing_in_the_wild")["trainings"]
    checked = 0
    for contender in ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw", "nadam", "lion", "muon+adamw"):
        for entry in evidence.tuned_trainings(contender):
            training = trainings[entry.training]
            tests = {name: tuned["best"]["test"] for name, tuned in training["contenders"].items()}
            if training["scale"] == "log":
                ratio = tests[contender] / tests[training["best"]]
                assert share_of(entry.worse_by) == pytest.approx(ratio - 1, rel=0.05), (contender, entry.training)
            elif contender != training["best"]:
                difference = tests[training["best"]] - tests[contender]
                sign = -1 if " better" in entry.worse_by else 1
                assert sign * float(entry.worse_by.split()[0]) == pytest.approx(difference, rel=0.05, abs=6e-5)
            checked += 1
    assert checked == 107
    sgd = {entry.training: entry.worse_by for entry in evidence.tuned_trainings("sgd")}
    assert (sgd["fine-tuning"], sgd["oscillator"], sgd["gan"]) == ("×2.33", "×50.9", "best")
    assert (sgd["graph"], sgd["field"]) == ("0.0093 in accuracy", "0.56 dB")


def test_a_starting_point_is_judged_on_tasks_that_did_not_choose_it() -> None:
    means = {name: entry["mean_factor"] for name, entry in evidence.record("recommended")["contenders"].items()}
    assert means["gd"]["left_out"] > 1.05 * means["gd"]["recommended"]
    for name, page in (("momentum", "sgd"), ("gd", "sgd"), ("adagrad", "adagrad"), ("lion", "lion")):
        row = next(line for line in (PAGES / f"{page}.md").read_text().splitlines() if line.startswith(f"| `{name}` |"))
        assert row.endswith(f"| {means[name]['left_out']:.2f} (defaults: {means[name]['default']:.2f}) |")
    rmsprop = (PAGES / "rmsprop.md").read_text()
    assert f"| {means['rmsprop']['default']:.2f} (defaults: {means['rmsprop']['default']:.2f}) |" in rmsprop


def test_advice_on_starting_points_has_the_numbers_of_the_record() -> None:
    means = {name: entry["mean_factor"] for name, entry in evidence.record("recommended")["contenders"].items()}
    for page, name in (("adagrad", "adagrad"), ("adam", "adam")):
        advice = " ".join((PAGES / f"{page}.md").read_text().partition("## In practice")[2].split())
        assert f"{means[name]['left_out']:.2f} times the best loss" in advice
        assert f"at {means[name]['default']:.2f} times" in advice
    advice = " ".join((PAGES / "sgd.md").read_text().partition("## In practice")[2].split())
    momentum = means["momentum"]
    assert f"{momentum['default']:.0f} times the best loss on nine tasks" in advice
    assert f"other tasks at {momentum['left_out']:.1f} times" in advice


def test_every_option_is_in_the_reference_of_commands() -> None:
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    for name in commands.names():
        section = text.partition(f"## thalweg {name}\n")[2].partition("\n## ")[0]
        for param in commands.cli.commands[name].params:
            for option in param.opts:
                assert option in section or option.upper() in section, f"{name} {option}"
        assert f"$ thalweg {name}" in section


def test_links_are_made_of_sources() -> None:
    assert linked("A, arXiv:1412.6980.") == "A, [arXiv:1412.6980](https://arxiv.org/abs/1412.6980)."
    assert (
        linked("jmlr.org/papers/v12/x.html, Figure 1")
        == "[jmlr.org/papers/v12/x.html](https://jmlr.org/papers/v12/x.html), Figure 1"
    )
    assert linked("as in torch.optim.Adam and thalweg.optim") == "as in torch.optim.Adam and thalweg.optim"


def test_a_page_without_its_region_raises_an_error() -> None:
    with pytest.raises(ValueError, match="it must have a region 'head'"):
        with_region("# Adam\n", "head", "text")
