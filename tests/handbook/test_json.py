"""Every key that a command prints as JSON is documented with its type, and every documented key is printed."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cases import diagnoses
from thalweg.cli.main import cli

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "json.md").read_text()
TYPES = {
    "text": str,
    "number": (int, float),
    "boolean": bool,
    "list": list,
    "object": dict,
    "null": type(None),
    "any": object,
}
# A section, the commands whose outputs together show every key of it, and the exit codes that they may have.
SICK = """
import torch, thalweg

def training(seed):
    torch.manual_seed(seed)
    x = torch.randn(64, 4)
    y = (x[:, 0] > 0).long()
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    return thalweg.Training(model, optimizer, [(x, y)], torch.nn.CrossEntropyLoss())

def train(make_optimizer, report):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([weight])
    for _ in range(3):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    report(weight.square().sum().item(), largest=weight.max().item())
"""


OUTPUTS = {
    "compare and report": [
        "compare quadratic --with gd,adam --budget 2trials --out a --json",
        "compare sick.py:train --with adam --budget 2trials --out b --json",
        "report a --json",
    ],
    "compare --suite": ["compare --suite quadratic,linear-regression --with adam --budget 1trial --out c --json"],
    "doctor": ["doctor sick.py:training --steps 30 --seeds 2 --json"],
    "show": ["show quadratic --with sgd --lr 0.1 --steps 2 --to x.png --json"],
    "list": ["list --json"],
    "explain": ["explain adamw --json", "explain adam --json"],
    "tasks": ["tasks --json"],
    "bench": ["bench --set small --rule adamw --rounds 2 --json"],
}


def documented(section: str) -> dict[str, tuple[str, str]]:
    """Return the keys of a section, each with its types and its meaning."""
    text = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", text, flags=re.MULTILINE)
    return {key: (types.strip(), meaning.strip()) for key, types, meaning in rows}


def matches(key: str, path: str) -> bool:
    pattern = re.escape(key).replace(r"\*", r"[^.\[\]]+(?:\.\w+)*?") if "*" in key else re.escape(key)
    return re.fullmatch(pattern, path) is not None


def flattened(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return every key path with its value; elements of lists that are objects are gone into."""
    pairs = [(path, value)] if path and not path.endswith("[]") else []
    if isinstance(value, dict):
        for key, child in value.items():
            pairs += flattened(child, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and all(isinstance(child, dict) for child in value):
        for child in value:
            pairs += flattened(child, f"{path}[]")
    return pairs


# Objects with the keys of another table.
SAME = {"replays[].run": "sick[]", "cured[]": "sick[]", "cause": "findings[]"}


def described(path: str, keys: dict[str, tuple[str, str]]) -> str | None:
    """Return the documented key that describes a path, the most special one first."""
    for begin, other in SAME.items():
        if path.startswith(f"{begin}."):
            path = other + path.removeprefix(begin)
    return max((key for key in keys if matches(key, path)), key=lambda key: (key == path, len(key)), default=None)


def is_of(value: Any, types: str) -> bool:
    """Return whether a value is of one of the documented types."""
    kinds = [TYPES[kind.strip()] for kind in types.split(" or ")]
    return any(isinstance(value, kind) and not (kind == (int, float) and isinstance(value, bool)) for kind in kinds)


@pytest.mark.parametrize("section", OUTPUTS)
def test_the_keys_are_those_that_the_command_prints(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sick.py").write_text(SICK)
    keys = documented(section)
    printed: set[str] = set()
    for command in OUTPUTS[section]:
        result = CliRunner().invoke(cli, command.split(), catch_exceptions=False)
        assert result.exit_code in (0, 3), result.stderr
        output = json.loads(result.stdout)
        if section == "compare --suite":  # tasks have the keys of a comparison, which its own table describes
            output["tasks"] = {task: {} for task in output["tasks"]}
        for path, value in flattened(output):
            key = described(path, keys)
            assert key, f"{section}: {path} is not documented in docs/reference/json.md"
            printed.add(key)
            assert is_of(value, keys[key][0]), f"{section}: {path} is documented as {keys[key][0]}, got {value!r}"
    missing = [key for key in keys if key not in printed]
    assert not missing, f"{section}: documented and not printed: {missing}"


def test_every_command_with_json_has_a_section() -> None:
    with_json = {
        name for name, command in cli.commands.items() if any("--json" in param.opts for param in command.params)
    }
    headings = " ".join(re.findall(r"^## (.*)$", TEXT, flags=re.MULTILINE))
    assert {name for name in with_json if name not in headings.split()} == set()
    assert set(OUTPUTS) == set(re.findall(r"^## (.*)$", TEXT, flags=re.MULTILINE))


ENDED_EARLY = replace(diagnoses.healthy(), healthy=None)


@pytest.mark.parametrize("diagnosis", [ENDED_EARLY, diagnoses.healthy(), diagnoses.not_a_number(), diagnoses.unknown()])
def test_every_diagnosis_has_the_types_of_the_page(diagnosis: Any) -> None:
    keys, values = documented("doctor"), diagnosis.to_json()
    assert values["healthy"] is diagnosis.healthy
    assert (values["cause"] is None) == (diagnosis.healthy is not False or not diagnosis.findings)
    for path, value in flattened(values):
        key = described(path, keys)
        assert key, f"{path} is not documented in docs/reference/json.md"
        assert is_of(value, keys[key][0]), f"{path} is documented as {keys[key][0]}, got {value!r}"
    assert keys["healthy"] == (
        "boolean or null",
        "true if the training works; null if the budget ended before that was known (exit code 2)",
    )
