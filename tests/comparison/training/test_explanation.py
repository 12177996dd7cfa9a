"""Explanations: a training of the race that diverged or learned nothing says why."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from thalweg.comparison.contenders.parsing import parse
from thalweg.comparison.results.cautions import _reasons_of_losses
from thalweg.comparison.training.computation.explanation import explain, is_lost
from thalweg.comparison.training.result import Evaluation, TrainingResult
from thalweg.comparison.training.runs import Trial
from thalweg.comparison.training.workload import as_workload
from thalweg.tasks import load


@pytest.mark.parametrize(
    ("expression", "lr", "reason"),
    [("adam", 30.0, "learning rate too high, since step "), ("sgd", 1e-9, "learning rate too low, since step 0")],
)
def test_the_first_steps_say_why_a_training_is_lost(expression: str, lr: float, reason: str) -> None:
    workload = as_workload(load("breast-cancer"))
    (contender,) = [parse(expression)]
    schedule = replace(workload.training_schedule(contender, "constant"), steps=40)
    (result,) = workload.train(contender, [Trial({"lr": lr}, 1)], schedule)
    assert is_lost(result) == bool(result.message)
    assert explain(load("breast-cancer"), contender, Trial({"lr": lr}, 1), schedule).startswith(reason)
    (good,) = workload.train(contender, [Trial({"lr": 0.01}, 1)], schedule)
    assert good.message == ""


def test_a_training_is_lost_if_it_diverged_or_its_loss_did_not_fall() -> None:
    start, end = Evaluation(0, 1.0, 1.0), Evaluation(9, 0.9, 0.9)
    assert not is_lost(TrainingResult("ok", train=0.9, evaluations=[start, end]))
    assert is_lost(TrainingResult("ok", train=1.0, evaluations=[start, end]))
    assert is_lost(TrainingResult("diverged"))
    assert not is_lost(TrainingResult("failed", message="OSError"))


def test_the_reason_is_a_caution() -> None:
    results = [
        TrainingResult("diverged", message="learning rate too high, since step 3"),
        TrainingResult("ok", message=""),
        TrainingResult("failed", message="OSError"),
    ]
    summary = SimpleNamespace(name="sgd", raced=[SimpleNamespace(result=result) for result in results])
    assert list(_reasons_of_losses([summary])) == [
        "sgd: 1 of 3 seeds diverged. Its first steps show why: learning rate too high, since step 3."
    ]
