"""Settings that a training replaces after a while: told with the line, while schedules are left alone."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.comparison.results.functions.late_settings import find_late
from thalweg.comparison.results.records import TrialRecord
from thalweg.comparison.training.functions.optimizer_use import OptimizerUse
from thalweg.comparison.training.result import Evaluation, TrainingResult

HERE = str(Path(__file__))
STEPS = 40
STEP_LR = torch.optim.lr_scheduler.StepLR
COSINE = torch.optim.lr_scheduler.CosineAnnealingLR


def training(change: Callable[[torch.optim.Optimizer, int], None]) -> Callable[..., None]:
    """Return a training function that calls ``change`` before each step, and reports once."""

    def train(make_optimizer: Callable[..., Any], report: Callable[[float], None]) -> None:
        weight = nn.Parameter(torch.ones(2))
        optimizer = make_optimizer([weight])
        for number in range(STEPS):
            optimizer.zero_grad()
            change(optimizer, number)
            loss = (weight - 3).square().sum()
            loss.backward()
            optimizer.step()
        report(loss.item() + 1)

    return train


def late_cautions(train: Callable[..., None], contenders: Any = ("sgd", "adam"), budget: str = "8trials") -> list[str]:
    comparison = thalweg.compare(train, list(contenders), budget=budget, workers=1, quiet=True)
    return [caution for caution in comparison.cautions if "only at its beginning" in caution]


def test_a_learning_rate_that_is_replaced_at_half_of_the_training_is_told_with_the_line() -> None:
    def change(optimizer: torch.optim.Optimizer, number: int) -> None:
        for group in optimizer.param_groups:
            if number < STEPS // 2:
                group["lr"] *= 0.99
            else:
                group["lr"] = 0.01

    line = f"{HERE}:{inspect.getsourcelines(change)[1] + 5}"
    (caution,) = late_cautions(training(change))
    assert caution.startswith("The training uses lr of ")
    assert f"From step 24 of 40 at the latest, all trainings use the same: {line} sets it. Multiply the one" in caution


def test_factors_and_floors_of_schedules_are_fine() -> None:
    def step_down(optimizer: torch.optim.Optimizer, number: int) -> None:
        if number == STEPS // 2:
            optimizer.param_groups[0]["lr"] *= 0.1

    def cosine(optimizer: torch.optim.Optimizer, number: int) -> None:
        if number == 0:
            schedulers[0] = COSINE(optimizer, STEPS - 1, eta_min=1e-4)
        else:
            schedulers[0].step()

    schedulers: list[Any] = [None]
    assert late_cautions(training(step_down)) == []
    assert late_cautions(training(cosine)) == []


def trial(
    value: float,
    changed: dict[str, list[float]] | None,
    contender: str = "adam",
    setting: str = "lr",
    steps: int = 16,
    **result: Any,
) -> TrialRecord:
    name, _, own = setting.rpartition(".")
    use = OptimizerUse(name=name, steps=steps, changed={} if changed is None else {own: changed})
    return TrialRecord(contender, "search", 0, 0, 0, {setting: value}, TrainingResult("ok", optimizers=[use], **result))


VALUES = [0.01, 0.1, 0.2, 1.0]


@pytest.mark.parametrize(
    ("changed", "step"),
    [
        (lambda lr: {"step 4": [lr], "step 8": [0.2], "step 12": [0.2], "end": [0.2]}, 8),
        (lambda lr: {"step 4": [lr], "step 8": [0.2], "step 12": [0.1], "end": [0.0]}, 8),
        (lambda lr: {"step 4": [lr], "step 8": [lr], "step 12": [0.2], "end": [0.2]}, 12),
        (lambda lr: {"step 4": [lr], "step 12": [lr], "step 13": [0.2], "end": [0.2]}, None),  # the end of a schedule
        (lambda lr: {"step 4": [lr], "step 8": [lr], "end": [0.2]}, None),
        (lambda lr: {"step 4": [lr], "step 8": [0.2], "step 12": [lr], "end": [0.2]}, None),  # it comes back
        (lambda lr: {"step 4": [lr], "step 8": [0.0], "step 12": [0.0], "end": [0.0]}, None),  # any lr times 0
        (lambda lr: {"step 4": [0.2], "step 8": [0.2], "step 12": [0.2], "end": [0.2]}, None),  # never used
        (lambda lr: None if lr == 1.0 else {"step 4": [lr], "step 8": [0.2], "end": [0.2]}, None),
        # A trial at the value that the loop sets has changed nothing: that shows no use.
        (lambda lr: None if lr == 0.2 else {"step 4": [lr], "step 8": [0.2], "end": [0.2]}, 8),
        (lambda lr: None, None),
    ],
)
def test_a_setting_is_late_if_all_trainings_join_long_before_the_end(changed: Any, step: int | None) -> None:
    found = find_late([trial(value, changed(value)) for value in VALUES])
    assert [(late.setting, late.contenders, late.low, late.high, late.step, late.steps) for late in found] == (
        [] if step is None else [("lr", ["adam"], 0.01, 1.0, step, 16)]
    )


def replaced(lr: float) -> dict[str, list[float]]:
    return {"step 4": [lr], "step 8": [0.2], "end": [0.2]}


def test_few_values_and_lost_trainings_are_no_evidence() -> None:
    assert find_late([trial(value, replaced(value)) for value in VALUES[:2]]) == []
    lost = [trial(value, replaced(value)) for value in VALUES[1:]]
    object.__setattr__(lost[0].result, "status", "diverged")
    assert find_late(lost) == []


def test_named_optimizers_and_contenders_are_told_apart() -> None:
    named = [trial(value, replaced(value), setting="d.lr") for value in VALUES]
    assert [late.setting for late in find_late(named)] == ["d.lr"]
    shared = [
        trial(value, replaced(value), name) for value, name in zip(VALUES, ("adam", "sgd", "sgd", "sgd"), strict=True)
    ]
    assert [late.contenders for late in find_late(shared)] == [["adam", "sgd"]]
    own = [trial(value, replaced(value)) for value in VALUES] + [trial(value, None, "sgd") for value in VALUES]
    assert [late.contenders for late in find_late(own)] == [["adam"]]


def test_the_shortest_training_counts_and_reports_where_steps_do_not() -> None:
    lengths = [trial(value, replaced(value), steps=steps) for value, steps in zip(VALUES, (9, 16, 16, 16), strict=True)]
    assert find_late(lengths) == []  # of 9 steps, the eighth is the end of a schedule
    reports = [Evaluation(step, 1.0, 1.0) for step in range(1, 9)]
    changed = {"report 1": [0.3], "report 4": [0.2], "report 8": [0.2]}
    uncounted = [trial(lr, changed | {"report 1": [lr]}, steps=0, evaluations=reports) for lr in VALUES]
    assert [(late.unit, late.step, late.steps) for late in find_late(uncounted)] == [("report", 4, 8)]
