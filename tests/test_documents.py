"""What the documents show is run, and what they name is there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg
from tests.optim.models import ARCHITECTURES

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(ROOT.glob("*.md"))


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


def test_the_readmes_example_runs_and_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    example, optimizer, kit = blocks("README.md")
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    # The budget is cut: what is shown is the shape of the answer, not its quality.
    scope: dict = {}
    exec(example.replace('budget="20s"', 'budget="4trials"'), scope)
    printed = capsys.readouterr().out
    assert "5 fresh seeds)" in printed
    assert "optimizer = thalweg.optim." in printed
    assert (tmp_path / "report.html").exists()
    scope |= {"model": scope["task"].make_model(0)}
    exec(optimizer, scope)
    exec(kit, scope)
    assert [one.check for one in scope["found"].failures] == ["keeps_float32_state_of_bfloat16_parameters"]


def test_the_plan_on_the_page_of_routing_is_the_one_that_is_printed(capsys) -> None:
    text = (ROOT / "docs" / "routing.md").read_text()
    (shown,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    exec(blocks("docs/routing.md")[0], {})
    assert capsys.readouterr().out == shown


def test_the_numbers_on_the_page_of_routing_are_those_of_the_record() -> None:
    text = " ".join((ROOT / "docs" / "routing.md").read_text().split())
    found = json.loads((ROOT / "benchmarks" / "records" / "routing.json").read_text())
    assert f"all of transformers {found['transformers']} that" in text
    assert f"{found['built']:,} of {found['classes']:,} `For...` and base classes, {found['parameters']:,} para" in text
    assert f"{found['known_not_to_be_matrices']:,} are known not to be hidden matrices" in text
    assert f"none of them goes to Muon. {found['matrices']:,} others do" in text
    alone = found["routed"] - found["with_questions"]
    assert f"In {alone:,} classes nothing has to be asked, in {found['with_questions']:,} at least one" in text
    assert found["wrong"] == found["errors"] == {}
    assert found["built"] == found["routed"]


def test_the_benchmark_of_routing_knows_what_is_no_matrix() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import routing
    finally:
        sys.path.pop(0)
    architecture = ARCHITECTURES["Llama"]
    model = architecture.make()
    names = {name for name, param in model.named_parameters() if id(param) in routing.forbidden(model)}
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= names
    assert names == {name for name, _ in model.named_parameters()} - architecture.hidden(model)


def test_the_readmes_tables_are_those_of_the_records() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import table
    finally:
        sys.path.pop(0)
    for document in table.DOCUMENTS:
        text = document.read_text()
        assert table.filled(text) == text
        assert "made by benchmarks/table.py" in text


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
    record = json.loads((ROOT / "benchmarks" / "records" / "conformance.json").read_text())
    found = {one["check"]: one["outcome"] for one in record["libraries"][library]["optimizers"][name]}
    assert found[check] == "failed"


def test_the_kit_found_nothing_in_ours_and_as_many_as_known_elsewhere() -> None:
    record = json.loads((ROOT / "benchmarks" / "records" / "conformance.json").read_text())["libraries"]

    def failing(library: str, check: str, text: str = "") -> int:
        findings = [one for each in record[library]["optimizers"].values() for one in each]
        return sum(one["check"] == check and one["outcome"] == "failed" and text in one["detail"] for one in findings)

    assert not [
        one for each in record["thalweg.optim"]["optimizers"].values() for one in each if one["outcome"] == "failed"
    ]
    assert failing("optimi", "gives_a_late_parameter_a_first_step") == 6  # of 8
    assert failing("pytorch_optimizer", "gives_a_late_parameter_a_first_step") >= 55  # of 111
    assert failing("pytorch_optimizer", "resumes_exactly", "Weights only load failed") == 5
    assert failing("heavyball", "leaves_gradients_alone") == len(record["heavyball"]["optimizers"])


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_the_command_at_the_top_of_an_example_runs(path: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"^thalweg .*$", path.read_text(), flags=re.MULTILINE)
    arguments = command.replace("8trials", "4trials").split()[1:]
    run = [sys.executable, "-m", "thalweg", *arguments, "--out", str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "optimizer = thalweg.optim." in done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_in_a_document_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", text):
        assert (ROOT / "".join(target)).exists(), target
    for path in re.findall(
        r"`((?:src|tests|docs|examples|rules|optim|tasks|comparison|cli|report|engine|lab|benchmarks|testing|bench)/[\w./]+\w)`",
        text,
    ):
        assert (ROOT / path).exists() or (ROOT / "src" / "thalweg" / path).exists() or "NAME" in path, path


def test_every_public_name_is_there_and_documented() -> None:
    for name in thalweg.__all__:
        assert getattr(thalweg, name).__doc__, name
    assert set(thalweg.__all__) <= set(dir(thalweg))
    with pytest.raises(AttributeError, match="has no attribute 'compar'"):
        thalweg.compar  # noqa: B018


def test_the_core_imports_torch_alone() -> None:
    script = (
        "import sys, thalweg.optim, thalweg.engine.stacked, thalweg.testing, thalweg.bench\n"
        "lab = {'scipy', 'sklearn', 'sqlalchemy', 'matplotlib', 'jinja2', 'rich', 'click'} & set(sys.modules)\n"
        "assert not lab, lab\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
