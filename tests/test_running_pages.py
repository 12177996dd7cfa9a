"""The pages on running: what they name exists, and the checkpoints that they promise are those of the table."""

import re
from pathlib import Path

import pytest
import torch

import thalweg.optim
from thalweg.optim.checkpoints.conversions import CONVERSIONS
from thalweg.registry import WRAPPERS, rule_from_name

ROOT = Path(__file__).parents[1]
RUNNING = ROOT / "docs" / "running"


def rows(page: str, section: str) -> list[list[str]]:
    """Return the cells of a section's table, without its head."""
    text = (RUNNING / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_every_optimizer_of_torch_migrates_by_name() -> None:
    names = re.findall(r"`(\w+)`", rows("migrating.md", "From torch")[0][0])
    classes = {name for name, kind in vars(torch.optim).items() if isinstance(kind, type)} - {"Optimizer"}
    assert set(names) >= classes
    assert all(hasattr(thalweg.optim, {"Adagrad": "AdaGrad"}.get(name, name)) for name in names)


@pytest.mark.parametrize("library", ["torch", "schedulefree", "prodigyopt", "pytorch_optimizer", "timm", "optax"])
def test_what_a_library_migrates_to_exists(library: str) -> None:
    for _, target, *_ in rows("migrating.md", f"From {library}"):
        for name in re.findall(r"`([A-Z]\w+)`", target):
            assert hasattr(thalweg.optim, name) or name == "GradScaler"
        for expression in re.findall(r"`(\w+\(adamw\))`", target):
            rule_from_name(expression)
        for wrapper in re.findall(r"`(\w+)\(\.\.\.\)`", target):
            assert wrapper in WRAPPERS


def test_one_name_in_pytorch_optimizer_has_one_of_ours() -> None:
    theirs, ours, *_ = rows("migrating.md", "From pytorch_optimizer")[0]
    pairs = list(zip(re.findall(r"`(\w+)`", theirs), re.findall(r"`(\w+)`", ours), strict=True))
    assert all(left.lower() == right.lower() for left, right in pairs)
    assert len(pairs) == 21


def test_the_checkpoints_of_other_libraries_are_those_that_are_converted() -> None:
    loads = {
        name
        for _, target, _ in rows("checkpoints.md", "Checkpoints of other libraries")
        for name in re.findall(r"`(\w+)`", target)
    }
    assert loads == {conversion.rule for conversion in CONVERSIONS}
