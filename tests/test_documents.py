"""The examples of the documents run, their numbers are those of the records, and what they name exists."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import thalweg
from benchmarks.correctness import routing
from benchmarks.tables import __main__ as table
from benchmarks.tables.markdown import region_names
from cases import rules as rule_cases
from cases import wrappers as wrapper_cases
from tests.optim.routing.models import ARCHITECTURES
from thalweg import optim, rules
from thalweg.cli.main import cli
from thalweg.registry import RULES, WRAPPERS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "causes")]
)
RECORDS = ROOT / "benchmarks" / "records"
HOW_TO_RECORD = "run: make record NAMES='{}'"


def test_the_readme_fits_a_screen_or_two() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


def test_the_numbers_on_the_page_of_routing_are_those_of_the_record() -> None:
    text = " ".join((ROOT / "docs" / "running" / "routing.md").read_text().split())
    record = json.loads((RECORDS / "routing.json").read_text())
    assert f"all of transformers {record['transformers']} that" in text
    assert (
        f"{record['built']:,} of {record['classes']:,} `For...` and base classes, with {record['parameters']:,}" in text
    )
    assert f"{record['known_not_to_be_matrices']:,} are known not to be hidden matrices" in text
    assert f"none of them goes to Muon. {record['matrices']:,} others do" in text
    clear, ambiguous = record["routed"] - record["with_questions"], record["with_questions"]
    assert f"In {clear:,} classes nothing is ambiguous, in {ambiguous:,} at least one parameter is" in text
    assert record["wrong"] == record["errors"] == {}
    assert record["built"] == record["routed"]


def test_the_benchmark_of_routing_knows_what_is_no_matrix() -> None:
    architecture = ARCHITECTURES["Llama"]
    model = architecture.make()
    names = {name for name, param in model.named_parameters() if id(param) in routing.unsuitable(model)}
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= names
    assert names == {name for name, _ in model.named_parameters()} - architecture.hidden(model)


def test_the_tables_are_those_of_the_records_and_rules() -> None:
    contents = table.tables()
    documents = table.documents()
    for document in documents:
        text = document.read_text()
        assert table.filled(text, contents) == text, f"{document.name} is out of date; run: python -m benchmarks.tables"
    places = {name for document in documents for name in region_names(document.read_text(), table.AUTHOR)}
    unused = {name for name in contents.keys() - places if not name.startswith("wild_")}  # not all are on a page
    assert not unused, "a table without a place in the documents"
    assert "wild_fine-tuning" in places  # a name may have hyphens


def test_a_mark_that_names_no_table_is_an_error() -> None:
    text = "<!-- sizes: made by benchmarks/tables -->\n<!-- /sizes -->\n"
    assert table.filled(text, {"sizes": "| 1 |"}) == text.replace("-->\n<!-- /", "-->\n| 1 |\n<!-- /")
    with pytest.raises(ValueError, match="a mark must name one of steps, got 'sizes'"):
        table.filled(text, {"steps": "| 1 |"})


@pytest.mark.parametrize("kind", [*RULES.values(), *WRAPPERS.values()], ids=lambda kind: kind.__name__)
def test_every_optimizer_is_in_the_record_and_on_the_page(kind: type[rules.Rule]) -> None:
    name = kind.__name__
    part = "wrappers" if issubclass(kind, rules.Wrapper) else "rules"
    record = json.loads((RECORDS / "catalogue.json").read_text())
    recorded = {entry["name"] for entry in record[part]}
    assert name in recorded, f"{name} is not in catalogue.json; {HOW_TO_RECORD.format(name)}"
    evidence = (ROOT / "docs" / "optimizers" / "evidence.md").read_text()
    assert f"\n| {name} |" in evidence, f"{name} has no row of evidence; {HOW_TO_RECORD.format(name)}"
    assert f"\n- **{name}**:" in evidence, f"{name} has no differences; run: python -m benchmarks.tables"


@pytest.mark.parametrize("kind", RULES.values(), ids=lambda kind: kind.__name__)
def test_every_rule_is_an_optimizer_and_checked_for_conformance(kind: type[rules.Rule]) -> None:
    name = kind.__name__
    assert name in optim.__all__, f"{name} has no class in thalweg.optim; add it to src/thalweg/optim/__init__.py"
    if name == "LBFGS":  # as torch's: it needs a closure
        return
    record = json.loads((RECORDS / "conformance.json").read_text())["libraries"]["thalweg.optim"]["optimizers"]
    assert name in record, f"{name} is not in conformance.json; {HOW_TO_RECORD.format(name)}"


def test_the_records_name_no_optimizer_that_is_gone() -> None:
    catalogue = json.loads((RECORDS / "catalogue.json").read_text())
    conformance = json.loads((RECORDS / "conformance.json").read_text())["libraries"]["thalweg.optim"]["optimizers"]
    known = {kind.__name__ for kind in RULES.values()}
    assert {entry["name"] for entry in catalogue["rules"]} == known
    assert {entry["name"] for entry in catalogue["wrappers"]} == {kind.__name__ for kind in WRAPPERS.values()}
    assert set(conformance) <= known


def test_every_optimizer_has_a_case() -> None:
    tested = {type(case.rule) for case in [*rule_cases.CASES, *wrapper_cases.CASES]} | {
        rules.LBFGS
    }  # tests/optim/closures/test_lbfgs.py
    missing = sorted(kind.__name__ for kind in {*RULES.values(), *WRAPPERS.values()} - tested)
    assert not missing, f"no case for {', '.join(missing)}; add it to cases/rules.py, of a wrapper to cases/wrappers.py"


# What is known of these releases, from their issues and from trying them.
KNOWN_DEFECTS = [
    ("torch.optim", "AdamW", "keeps_float32_state_of_bfloat16_parameters"),  # pytorch#43706
    ("torch.optim", "Adafactor", "steps_alike_when_sharded"),
    ("pytorch_optimizer", "SOAP", "leaves_a_tensor_lr_alone"),
    ("heavyball", "AdamW", "leaves_gradients_alone"),
    ("heavyball", "AdamW", "resumes_exactly_in_bfloat16"),
    ("heavyball", "Scion", "moves_nothing_before_the_first_step"),
    ("heavyball", "PSGDPRO", "survives_a_zero_first_gradient"),
    ("heavyball", "SOAP", "takes_single_numbers"),
    ("schedulefree", "AdamWScheduleFree", "survives_a_tensor_lr_of_zero"),
    ("schedulefree", "AdamWScheduleFree", "leaves_gradients_alone"),
    ("schedulefree", "ScheduleFreeWrapper", "is_an_optimizer"),
    ("schedulefree", "ScheduleFreeWrapper", "learns"),  # around Adam it raises
    ("prodigyopt", "Prodigy", "waits_for_no_parameter"),
    ("prodigyopt", "Prodigy", "steps_alike_when_sharded"),
]


@pytest.mark.parametrize(("library", "name", "check"), KNOWN_DEFECTS)
def test_the_kit_found_what_is_known_of_released_libraries(library: str, name: str, check: str) -> None:
    record = json.loads((RECORDS / "conformance.json").read_text())
    outcomes = {finding["check"]: finding["outcome"] for finding in record["libraries"][library]["optimizers"][name]}
    assert outcomes[check] == "failed"


# Rprop's learning rate is the size of its first step alone.
OUR_FAILURES = {"Rprop": ["obeys_schedulers"]}


def test_the_kit_found_what_is_known_of_ours_and_of_other_libraries() -> None:
    record = json.loads((RECORDS / "conformance.json").read_text())["libraries"]

    def failing(library: str, check: str, text: str = "") -> int:
        optimizers = record[library]["optimizers"].values()
        findings = [finding for findings in optimizers for finding in findings if finding["check"] == check]
        return sum(finding["outcome"] == "failed" and text in finding["detail"] for finding in findings)

    ours = {
        name: [finding["check"] for finding in findings if finding["outcome"] == "failed"]
        for name, findings in record["thalweg.optim"]["optimizers"].items()
    }
    assert {name: checks for name, checks in ours.items() if checks} == OUR_FAILURES
    assert failing("optimi", "gives_a_late_parameter_a_first_step") == 6  # of 8
    assert failing("pytorch_optimizer", "gives_a_late_parameter_a_first_step") >= 55  # of 111
    assert failing("pytorch_optimizer", "resumes_exactly", "Weights only load failed") == 5
    assert failing("heavyball", "leaves_gradients_alone") == len(record["heavyball"]["optimizers"])


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_the_command_at_the_top_of_an_example_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = re.findall(r"^thalweg .*$", path.read_text(), flags=re.MULTILINE)
    arguments = re.sub(r"--budget \S+", "--budget 2trials", command).split()[1:]
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert "optimizer = thalweg.optim." in done.stdout


def without_blocks(text: str) -> str:
    """Return a page without its blocks of code; a fence within a line opens none."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that a code host makes of headings."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_in_a_document_exist(document: Path) -> None:
    text = without_blocks(document.read_text())
    for link, image in re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text):
        target, _, anchor = (link or image).partition("#")
        if ":" in target:
            continue
        path = document.parent / target if target else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), f"{target}#{anchor}"
    for path in re.findall(
        r"`((?:src|tests|docs|examples|rules|optim|tasks|comparison|cli|report|engine|lab|benchmarks|testing|bench)/[\w./]+\w)`",
        text,
    ):
        assert (ROOT / path).exists() or (ROOT / "src" / "thalweg" / path).exists() or "NAME" in path, path


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {thalweg.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_public_name_is_there_and_documented() -> None:
    for name in thalweg.__all__:
        assert getattr(thalweg, name).__doc__, name
    assert set(thalweg.__all__) <= set(dir(thalweg))
    with pytest.raises(AttributeError, match="has no attribute 'compar'"):
        thalweg.compar  # noqa: B018


def test_the_core_imports_torch_alone() -> None:
    script = (
        "import sys, thalweg.optim, thalweg.engine.population, thalweg.testing, thalweg.bench\n"
        "lab = {'scipy', 'sklearn', 'sqlalchemy', 'matplotlib', 'jinja2', 'rich', 'click'} & set(sys.modules)\n"
        "assert not lab, lab\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
