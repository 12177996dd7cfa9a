"""The checks of the conformance kit: each fails on the defect that it tests for, and on nothing that resembles it."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.testing.defective_modes import (
    CountsAlone,
    DrawsNoise,
    Evaluates,
    ExchangesAtEachCall,
    ForgetsItIsEvaluating,
    KeepsTheLastMicroBatch,
    LeavesGradModeOff,
    LosesGradModeOnError,
    RefusesToSaveInEvaluation,
    Seeds,
    TrainsOnce,
    Wrapped,
    ZeroesBeforeAClosure,
    without_names,
)
from tests.testing.defective_steps import (
    ClearsGradients,
    Climbs,
    CountsTogether,
    DividesByTheLr,
    DividesByTheNorm,
    DividesByWhatVanishes,
    DividesByZero,
    DropsTheLoss,
    EstimatesAScale,
    FirstGroupRules,
    ForgetsItsCount,
    KeepsALock,
    KeepsItsGroups,
    LeavesSlowGroups,
    NeedsADimension,
    NeedsAnElement,
    NeverMaximizes,
    Plain,
    ReadsBack,
    ReadsMemoryInOrder,
    ScalesByTheNorm,
    ScalesByTheNormAboveATinyFloor,
    ScalesByTheNormUnlessZero,
    ScalesGradients,
    StartsAnew,
    StepsWithoutAGradient,
    SumsSquares,
    TakesRealParts,
    WritesTheLr,
    WritesTheTensorLr,
)
from thalweg.testing import check_optimizer

PLANTED: list[tuple[Callable[[Any], Any], str]] = [
    (ClearsGradients, "leaves_gradients_alone"),
    (ScalesGradients, "leaves_gradients_alone"),
    (WritesTheTensorLr, "leaves_a_tensor_lr_alone"),
    (WritesTheLr, "leaves_the_settings_alone"),
    (DividesByTheLr, "survives_a_tensor_lr_of_zero"),
    (CountsTogether, "gives_a_late_parameter_a_first_step"),
    (StartsAnew, "moves_nothing_before_the_first_step"),
    (DividesByZero, "survives_a_zero_first_gradient"),
    (ScalesByTheNorm, "moves_parameters_that_start_at_zero"),
    (ScalesByTheNormAboveATinyFloor, "moves_parameters_that_start_at_zero"),
    (DividesByTheNorm, "moves_parameters_that_start_at_zero"),
    (ForgetsItsCount, "resumes_exactly"),
    (ForgetsItsCount, "resumes_exactly_in_bfloat16"),
    (ForgetsItsCount, "copies_go_on_alike"),
    (ForgetsItsCount, "pickles_go_on_alike"),
    (ForgetsItsCount, "resumes_from_a_distributed_checkpoint"),
    (KeepsALock, "resumes_exactly"),
    (Plain, "keeps_float32_state_of_bfloat16_parameters"),  # torch's own loader
    (KeepsItsGroups, "follows_the_lr_after_resuming"),
    (StepsWithoutAGradient, "leaves_parameters_without_a_gradient_alone"),
    (FirstGroupRules, "takes_groups_with_their_own_settings"),
    (without_names, "takes_named_parameters"),
    (DropsTheLoss, "calls_closures"),
    (ZeroesBeforeAClosure, "adds_the_gradients_of_a_closure"),
    (TrainsOnce, "switches_modes_any_number_of_times"),
    (NeverMaximizes, "climbs_when_maximizing"),
    (NeedsADimension, "takes_single_numbers"),
    (NeedsAnElement, "takes_empty_parameters"),
    (TakesRealParts, "takes_complex_parameters"),
    (ReadsMemoryInOrder, "takes_any_order_in_memory"),
    (Climbs, "learns"),
    (ReadsBack, "waits_for_no_parameter"),
    (EstimatesAScale, "trains_a_late_parameter_like_the_others"),
    (LeavesSlowGroups, "trains_groups_at_their_own_rates"),
    (SumsSquares, "survives_any_magnitude"),
    (DividesByWhatVanishes, "survives_gradients_that_vanish"),
    (ExchangesAtEachCall, "switches_modes_any_number_of_times"),
    (RefusesToSaveInEvaluation, "saves_while_evaluating"),
    (ForgetsItIsEvaluating, "saves_while_evaluating"),
    (KeepsTheLastMicroBatch, "accumulates_in_closures"),
    (LeavesGradModeOff, "leaves_the_process_alone"),
    (LosesGradModeOnError, "leaves_the_process_alone"),
    (Seeds, "leaves_the_process_alone"),
    (CountsAlone, "counts_steps_in_shared_memory"),
    (lambda params: Wrapped(Plain(params)), "is_an_optimizer"),
]


@pytest.mark.parametrize(("broken", "check"), PLANTED)
def test_each_check_fails_on_its_defect(broken: Any, check: str) -> None:
    result = check_optimizer(broken, only=[check])
    assert result[check].outcome == "failed", str(result)
    assert not result.passed


@pytest.mark.parametrize(
    ("sound", "check"),
    [
        (Evaluates, "switches_modes_any_number_of_times"),
        (Evaluates, "saves_while_evaluating"),
        (DrawsNoise, "leaves_the_process_alone"),
    ],
)
def test_what_resembles_a_defect_passes(sound: Any, check: str) -> None:
    assert check_optimizer(sound, only=[check])[check].outcome == "passed"


def test_threads_and_forked_processes() -> None:
    checks = ["steps_in_a_forked_process", "leaves_threads_to_forked_processes"]
    sound = check_optimizer(torch.optim.SGD, only=checks)
    assert [result.outcome for result in sound.checks] == ["passed", "passed"]


THREADS = """
import os
import time
import types
from pathlib import Path

import torch
from thalweg.testing.checks import parallel
from thalweg.testing.fixtures import SHAPES, Subject

FUTEX = {"x86_64": "202", "aarch64": "98"}.get(os.uname().machine, "unknown")


class UsesThreads(torch.optim.SGD):
    def step(self, closure=None):
        torch.ones(300_000).exp()
        return super().step(closure)


def waits_for_ever(pid):
    # All threads of a process wait for a lock, without a limit: there is nobody who could wake one of them.
    for task in Path(f"/proc/{pid}/task").iterdir():
        call, *arguments = (task / "syscall").read_text().split()
        if call != FUTEX or int(arguments[1], 16) & 127 not in (0, 9) or int(arguments[3], 16):
            return False
    return True


def children():
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                yield path.parent.name
        except OSError:  # a process that has ended
            pass


LOOKS = [0]  # in a row, at which a child waited for ever


def monotonic():
    # It is late as soon as it is certain that a child never ends. A system that does not tell takes its time.
    try:
        LOOKS[0] = LOOKS[0] + 1 if any(map(waits_for_ever, children())) else 0
    except (OSError, ValueError, IndexError):
        LOOKS[0] = 0
    return time.monotonic() + 1000 * max(0, LOOKS[0] - 2)


parallel.time = types.SimpleNamespace(monotonic=monotonic, sleep=time.sleep)
parallel._TIMEOUT_S = 60
subject = Subject(UsesThreads, None, 0.0, {}, SHAPES)
for check in (parallel._compute_in_a_fork, parallel._train_in_a_fork):
    try:
        check(subject, rank=0)
    except AssertionError as failure:
        print(failure)
"""


def test_threads_that_a_step_starts_fail() -> None:
    # In another program: this one has imported the engine, which ends the threads before a fork.
    completed = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=300, check=True)
    first, second = completed.stdout.splitlines()
    assert first.startswith("after training, a large operation"), completed.stderr
    assert second.startswith("after a large operation, training"), completed.stderr
    assert "the child did not end" in first
    assert "the child did not end" in second


def test_a_guarded_trust_ratio_passes() -> None:
    check = "moves_parameters_that_start_at_zero"
    assert check_optimizer(ScalesByTheNormUnlessZero, only=[check])[check].outcome == "passed"


def test_a_step_that_depends_on_the_shard_fails() -> None:
    result = check_optimizer(torch.optim.Adafactor, only=["steps_alike_when_sharded"])
    assert result["steps_alike_when_sharded"].outcome == "failed"


def test_an_optimizer_without_defects_fails_only_because_of_torchs_loader() -> None:
    result = check_optimizer(lambda params: Plain(params))
    assert [check.check for check in result.failures] == ["keeps_float32_state_of_bfloat16_parameters"]
    assert result["agrees_with_the_reference"].outcome == "skipped"
    assert result["dispatches_a_parameter"].number > 1


def test_an_ignored_schedule_and_hooks_that_are_not_called_fail() -> None:
    class KeepsItsLr(Plain):
        def update(self, group: Any, param: Tensor, grad: Tensor) -> None:
            super().update({**group, "lr": 0.05}, param, grad)

    class Deaf(Plain):
        def register_step_post_hook(self, hook: Any) -> Any:
            return None

    assert check_optimizer(KeepsItsLr, only=["obeys_schedulers"])["obeys_schedulers"].outcome == "failed"
    assert check_optimizer(Deaf, only=["calls_hooks"])["calls_hooks"].outcome == "failed"


def test_a_reference_and_a_variant_that_differ_fail() -> None:
    result = check_optimizer(
        Plain,
        reference=lambda params: Plain(params, weight_decay=0.1001),
        variants={"variant": lambda params: Plain(params, lr=0.05 * (1 + 1e-15))},
        only=["agrees_with_the_reference", "is_the_same_every_way"],
    )
    assert result["agrees_with_the_reference"].outcome == "failed"
    assert result["is_the_same_every_way"].outcome == "failed"
    assert result["is_the_same_every_way"].detail.startswith("variant in torch.float64")


def test_a_clear_refusal_is_no_failure() -> None:
    class RealOnly(Plain):
        def add_param_group(self, param_group: dict[str, Any]) -> None:
            if any(param.is_complex() for param in param_group["params"]):
                raise ValueError("RealOnly: parameters must be real, got complex ones.")
            super().add_param_group(param_group)

    result = check_optimizer(RealOnly, only=["takes_complex_parameters"])
    assert result.passed
    assert len(result.checks) == 1
    assert result.checks[0].outcome == "refused"
    assert (
        str(result) == "refused  takes_complex_parameters          RealOnly: parameters must be real, got complex ones."
    )
