"""Every change on every training that it suits: it applies, trains, and its lines run and do the same."""

import ast
import math
import warnings

import pytest
import torch

from cases.trainings import TRAININGS, classes, paste, train
from thalweg.diagnosis.changes import CHANGES, FIXED_SUBSET, Change, changes_for
from thalweg.diagnosis.changes.escape import Restarts
from thalweg.diagnosis.changes.steps import OtherOptimizer
from thalweg.diagnosis.kinds import KINDS
from thalweg.errors import DiagnosisError
from thalweg.tasks import Training

STEPS = 3
# Random numbers come in another order in the lines, or the lines are only advice for the text of a forward.
DRAWS = ("gradient noise", "restarts from perturbed weights")
CASES = [pytest.param(change, name, id=f"{change.name}-{name}") for change in CHANGES for name in TRAININGS]


def made(name: str) -> Training:
    training = TRAININGS[name]()
    torch.manual_seed(1)
    return training


def is_advice(code: str) -> bool:
    """Return whether lines are comments only."""
    return all(not line or line.startswith("#") for line in code.splitlines())


def is_lost(change: Change, name: str) -> bool:
    """Return whether the step has a schedule that the lines would have to replace."""
    return name == "images" and isinstance(change, OtherOptimizer | Restarts)


@pytest.mark.parametrize(("change", "name"), CASES)
def test_a_change_applies_and_its_lines_do_the_same(change: Change, name: str) -> None:
    if reason := change.why_not(made(name), None):
        with pytest.raises(DiagnosisError, match=change.name.replace("(", r"\(")):
            change.apply(made(name), None)
        assert not reason.endswith(".")
        return
    losses = train(change.apply(made(name), None), STEPS)
    assert all(map(math.isfinite, losses))
    code = change.code(made(name), None)
    compile(code, "<pasted>", "exec")
    is_import = [isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(code).body]
    assert is_import == sorted(is_import, reverse=True), "imports belong on top"
    if is_advice(code) or change.name in DRAWS or "for each optimizer" in code or is_lost(change, name):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's order of scheduler and step in pasted lines
        again = train(paste(made(name), code), STEPS)
    assert again == pytest.approx(losses, rel=1e-4)


def test_names_are_unique_and_kinds_are_known() -> None:
    names = [change.name for change in CHANGES]
    assert len(names) == len(set(names))
    assert all(set(change.cures) <= KINDS.keys() and change.cures for change in CHANGES)


def test_every_kind_has_changes_but_those_that_only_other_data_cure() -> None:
    assert [kind for kind in KINDS if not changes_for(kind, None)] == ["inputs_constant", "labels_misaligned"]


@pytest.mark.parametrize("kind", KINDS)
def test_smaller_changes_come_first(kind: str) -> None:
    sizes = [change.size for change in changes_for(kind, None)]
    assert sizes == sorted(sizes)


def test_a_fixed_subset_repeats_the_first_batch() -> None:
    training = FIXED_SUBSET.apply(classes(), None)
    first, second = next(iter(training.batches)), next(iter(training.batches))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[0], next(iter(classes().batches))[0])
