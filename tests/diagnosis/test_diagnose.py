"""Whole diagnoses of small trainings."""

import gc
import inspect
import json
import random
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from cases.fake_accelerator import FakeAccelerator
from thalweg.diagnosis.diagnose import (
    CUT_SHORT,
    INTERRUPTED,
    SEEDS_LEFT_OUT,
    DiagnosisProgress,
    _seconds,
    diagnose,
)
from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.diagnosis.evidence import examples_repeat
from thalweg.diagnosis.frozen_heap import frozen_heap
from thalweg.diagnosis.judging.clock import NORMAL_BUDGET_S, Clock
from thalweg.diagnosis.kinds import KINDS
from thalweg.engine.core import devices
from thalweg.errors import BudgetError, DiagnosisError, DiagnosisInterrupted
from thalweg.tasks.reproducibility.isolation import isolated

STEPS = 40


def plane(seed: int, lr: float = 0.1, **changes: Any) -> thalweg.Training:
    """A linear model that fits a plane; its metric is the explained variance."""
    x = torch.randn(64, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    model = nn.Linear(4, 1)

    def explained(model: nn.Module) -> float:
        return float(1 - (model(x) - y).square().mean() / y.var())

    parts: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=lr),
        "batches": [(x[:32], y[:32]), (x[32:], y[32:])],
        "loss_fn": nn.functional.mse_loss,
        "metric": explained,
    }
    return thalweg.Training(**(parts | changes))


def test_a_healthy_training() -> None:
    diagnosis = diagnose(plane, steps=STEPS, budget="10m")

    assert diagnosis.healthy
    assert diagnosis.cause is None
    assert diagnosis.cure is None
    assert diagnosis.caution == ""
    assert (diagnosis.score_name, diagnosis.steps, diagnosis.name) == ("metric", STEPS, "plane")
    assert all(finding.severity == "note" for finding in diagnosis.findings)
    assert {replay.change for replay in diagnosis.replays} >= {"learning rate / 10", "learning rate x 10", "Adam"}


def test_without_time_for_replays_health_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "pays_for", lambda self, runs: False)
    diagnosis = diagnose(plane, steps=STEPS, budget="10m")
    assert (diagnosis.healthy, diagnosis.cause, diagnosis.cure) == (None, None, None)
    assert diagnosis.caution == CUT_SHORT
    assert str(diagnosis).startswith("It is not known if plane is healthy: the budget ended before.")


@pytest.mark.parametrize(
    ("replays", "seeds", "verified", "cautions"),
    [
        (4, 0, None, [CUT_SHORT, SEEDS_LEFT_OUT]),
        (4, 2, True, [SEEDS_LEFT_OUT]),
        (4, 3, True, []),
        (99, 0, None, [SEEDS_LEFT_OUT]),
        (99, 2, True, [SEEDS_LEFT_OUT]),
        (99, 3, True, []),
    ],
)
def test_the_caution_says_what_was_left_out(
    replays: int, seeds: int, verified: bool | None, cautions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {True: replays, False: seeds}  # replays ask for more than two runs, a fresh seed asks for two

    def pays_for(clock: Clock, runs: float) -> bool:
        left[runs > 2] -= 1
        return left[runs > 2] >= 0

    monkeypatch.setattr(Clock, "pays_for", pays_for)
    diagnosis = diagnose(lambda seed: plane(seed, lr=1e-4), steps=STEPS, budget="10m")
    assert (diagnosis.cure and diagnosis.cure.verified) is verified
    assert diagnosis.caution == " ".join(cautions)
    is_unverified = "No cure was verified: the diagnosis ended before." in " ".join(str(diagnosis).split())
    assert is_unverified is (verified is None)


def test_collections_pass_over_what_existed_before() -> None:
    frozen: list[int] = []

    def training(seed: int) -> thalweg.Training:
        frozen.append(gc.get_freeze_count())
        return plane(seed)

    existing = len(gc.get_objects())
    diagnose(training, steps=STEPS)
    assert min(frozen) > 0.9 * existing
    assert gc.get_freeze_count() < 0.1 * existing
    with pytest.raises(DiagnosisError):
        diagnose(lambda seed: plane(seed, model=nn.Linear(5, 1)), steps=STEPS)
    assert gc.get_freeze_count() < 0.1 * existing


class Cycle:
    """Garbage that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("accelerators", [0, 2])
def test_garbage_is_collected_before_where_memory_is_scarce(accelerators: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(devices.ACCELERATORS, "cuda", FakeAccelerator(accelerators))
    with isolated():
        gc.disable()
        garbage = weakref.ref(Cycle())
        with frozen_heap():
            assert (garbage() is None) is bool(accelerators)


class Bypassed(nn.Module):
    """A body that ``forward`` leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


def test_a_certain_fault_that_no_replay_can_mend_is_a_warning() -> None:
    def training(seed: int) -> thalweg.Training:
        model = Bypassed()
        return plane(seed, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))

    diagnosis = diagnose(training, steps=STEPS, budget="10m")
    assert diagnosis.healthy is False
    assert diagnosis.cause is not None
    assert (diagnosis.cause.kind, diagnosis.cause.where, diagnosis.cause.severity) == ("no_gradient", "body", "warning")


def test_a_task_is_diagnosed_with_an_optimizer() -> None:
    task = thalweg.tasks.load("breast-cancer")
    diagnosis = thalweg.diagnose(task, steps=STEPS, budget="10m", contender="adam:lr=1e-6")
    assert (diagnosis.name, diagnosis.cause and diagnosis.cause.kind) == ("breast-cancer", "lr_too_low")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            thalweg.tasks.TrainingFunction(train=lambda make_optimizer, report: None, name="loop"),
            "loop: a diagnosis needs",
        ),
        (plane, "diagnose: contender must be None for a function, got adam"),
    ],
)
def test_what_is_no_training_is_refused(training: Any, message: str) -> None:
    with pytest.raises(DiagnosisError, match=message):
        thalweg.diagnose(training, contender="adam")


def test_a_learning_rate_that_is_too_low() -> None:
    stages: list[DiagnosisProgress] = []
    state = torch.get_rng_state(), random.getstate()

    diagnosis = diagnose(lambda seed: plane(seed, lr=1e-4), steps=STEPS, progress=stages.append, name="low")

    assert not diagnosis.healthy
    assert diagnosis.cause is not None
    assert (diagnosis.name, diagnosis.cause.kind, diagnosis.cause.severity) == ("low", "lr_too_low", "error")
    assert {finding.severity for finding in diagnosis.findings[1:]} <= {"note"}  # Adam helps, too
    assert "lr_too_high" not in {finding.kind for finding in diagnosis.findings}
    cure = diagnosis.cure
    assert cure is not None
    assert (cure.kind, cure.name, cure.verified) == ("lr_too_low", "learning rate x 1000", True)
    assert 'group["lr"] *= 1000' in cure.code
    assert diagnosis.cause.remedy == (
        "Make the change that was verified: learning rate x 1000. "
        "In general: Multiply the learning rate by 10 until the loss no longer falls faster."
    )
    assert cure.seeds == (1, 2, 3)
    assert min(cure.after) > 0.95 > 0.2 > max(cure.before)
    assert 0 < cure.low < cure.difference < cure.high
    assert [run.seed for run in diagnosis.sick] == [0, 1, 2, 3]
    assert all(len(run.losses) == STEPS for run in (*diagnosis.sick, *diagnosis.cured))
    assert json.loads(json.dumps(diagnosis.to_json()))["cause"]["kind"] == "lr_too_low"
    assert {event.stage for event in stages} == {"inspecting", "watching", "replaying", "verifying"}
    assert stages[-1].runs == len(diagnosis.sick) + len(diagnosis.cured) + len(diagnosis.replays) - 1
    assert torch.get_rng_state().equal(state[0])
    assert random.getstate() == state[1]


def test_without_a_metric_the_loss_on_held_back_batches_counts() -> None:
    def stream(seed: int) -> thalweg.Training:
        generator = torch.Generator().manual_seed(seed)
        batches = ((x, x.sum(1, keepdim=True)) for x in iter(lambda: torch.randn(32, 4, generator=generator), None))
        return plane(seed, lr=1e-4, metric=None, batches=batches)

    diagnosis = diagnose(stream, steps=STEPS)

    assert diagnosis.score_name == "loss on held-back batches"
    assert diagnosis.cause is not None
    assert diagnosis.cause.kind == "lr_too_low"
    assert diagnosis.cure is not None
    assert diagnosis.cure.verified


def test_a_step_with_a_loss_of_its_own_and_no_metric() -> None:
    def step(training: thalweg.Training, x: Tensor, y: Tensor) -> Tensor:
        training.optimizer.zero_grad()
        loss = (training.model(x) - y).abs().mean()
        loss.backward()
        training.optimizer.step()
        return loss

    def no_loss(output: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("the loss is in step")

    diagnosis = diagnose(lambda seed: plane(seed, lr=1e-4, metric=None, step=step, loss_fn=no_loss), steps=STEPS)

    assert diagnosis.score_name == "last training losses"
    assert diagnosis.cause is not None
    assert diagnosis.cause.kind == "lr_too_low"


def test_a_user_error_is_raised_as_such() -> None:
    with pytest.raises(DiagnosisError, match=r"^plane: the plain step .* must run, got RuntimeError: .* \(at .*:\d+\)"):
        diagnose(lambda seed: plane(seed, model=nn.Linear(5, 1), metric=None), steps=STEPS, name="plane")


def test_a_certain_fault_is_diagnosed_though_the_training_cannot_run() -> None:
    def backward(training: thalweg.Training, x: Tensor, y: Tensor) -> Tensor:
        training.optimizer.zero_grad()
        loss = training.loss_fn(training.model(x), y)
        loss.backward()  # raises where everything is frozen
        training.optimizer.step()
        return loss

    def frozen(seed: int) -> thalweg.Training:
        training = plane(seed, step=backward)
        training.model.requires_grad_(False)
        return training

    diagnosis = diagnose(frozen, steps=STEPS)

    assert diagnosis.cause is not None
    assert diagnosis.cause.kind == "frozen_parameters"
    assert diagnosis.cure is not None
    assert diagnosis.cure.verified
    assert diagnosis.sick[0].ending == "failed"


def interrupted_at(stage: str) -> Diagnosis:
    """Return what is known of a training whose learning rate is too low if a stage of its diagnosis is interrupted."""

    def interrupt(event: DiagnosisProgress) -> None:
        if event.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(DiagnosisInterrupted) as caught:
        diagnose(lambda seed: plane(seed, lr=1e-4), steps=STEPS, progress=interrupt)
    assert caught.value.result is not None
    return caught.value.result


def test_an_interrupt_keeps_what_is_known() -> None:
    diagnosis = interrupted_at("verifying")
    assert diagnosis.cause is not None
    assert diagnosis.cause.kind == "lr_too_low"
    assert diagnosis.cure is None
    assert diagnosis.cause.remedy == KINDS["lr_too_low"].remedy  # nothing was verified
    text = " ".join(str(diagnosis).split())
    assert "No cure was verified: the diagnosis ended before. Changes that work from the first seed: " in text
    working = text.partition("from the first seed: ")[2]
    assert "learning rate x 1000" in working.partition(". ")[0].split(", ")
    assert f"Caution: {INTERRUPTED}" in text


def test_an_interrupt_before_any_replay_says_that_none_was_made() -> None:
    diagnosis = interrupted_at("replaying")
    assert (diagnosis.replays, diagnosis.cure, diagnosis.cured) == ((), None, ())
    text = " ".join(str(diagnosis).split())
    assert "No change was replayed." in text
    assert f"Caution: {INTERRUPTED}" in text


@pytest.mark.parametrize(("budget", "seconds"), [("60s", 60.0), ("1.5m", 90.0), ("2h", 7200.0), (7, 7.0), (0.5, 0.5)])
def test_budgets(budget: str | float, seconds: float) -> None:
    assert _seconds(budget) == seconds


@pytest.mark.parametrize("function", [diagnose, thalweg.diagnose])
def test_the_normal_budget_is_the_default(function: Any) -> None:
    assert _seconds(inspect.signature(function).parameters["budget"].default) == NORMAL_BUDGET_S


@pytest.mark.parametrize("budget", ["60", "0s", -1, True, None, float("inf"), float("nan"), "5 trials"])
def test_budgets_that_are_no_time(budget: Any) -> None:
    with pytest.raises(
        BudgetError, match=r"^diagnose: budget must be a time above zero, got .*\. Write '60s' or '5m'\."
    ):
        diagnose(plane, budget=budget)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, "seeds must be a whole number, 2 or more, got 1"),
        ({"seeds": 2.0}, "seeds must be a whole number, 2 or more, got 2.0"),
        ({"steps": 9}, "steps must be a whole number, 10 or more, got 9"),
        ({"steps": True}, "steps must be a whole number, 10 or more, got True"),
    ],
)
def test_counts_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DiagnosisError, match=f"^diagnose: {message}"):
        diagnose(plane, **options)


def test_examples_that_come_again() -> None:
    x = torch.randint(9, (4, 3))
    assert examples_repeat([(x, 0), (x.flip(0), 0)])
    assert not examples_repeat([(x, 0), (x + 10, 0)])
    assert not examples_repeat([("text", 0), ("text", 0)])
